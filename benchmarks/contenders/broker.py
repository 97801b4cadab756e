"""The old design's exchange and queue, for the contenders that keep its flow."""

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

CREATED = "order.created"


async def declare(channel: AbstractChannel, queue_type: str) -> tuple[AbstractExchange, AbstractQueue]:
    """`queue_type`: classic or quorum. Both are durable."""
    exchange = await channel.declare_exchange("orders_exchange", ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue("orders.created", durable=True, arguments={"x-queue-type": queue_type})
    await queue.bind(exchange, CREATED)
    return exchange, queue
