"""The old design's flow at its honest best: INSERT, publish, DEL, awaited in each request.

A pool of the right size whose connections keep their prepared statements, one AMQP connection, and a consumer that
decides in one statement under the row's lock, many messages at once. CONFIRMED=1: persistent messages in a quorum
queue, and each request waits for its confirm.

`app` is the order service. `python -m benchmarks.contenders.sync_tuned` is the consumer.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aio_pika
import asyncpg
import uvloop
from aio_pika import DeliveryMode
from aio_pika.abc import AbstractIncomingMessage
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.contenders.broker import CREATED, declare
from benchmarks.contenders.endpoint import OrderEndpoint, order_app, row
from benchmarks.contenders.prices import Prices
from benchmarks.contenders.statements import DECIDE, INSERT_ORDER, PRICE
from pipeline.contract.orders import Order, decode_order, encode_order

_CONFIRMED = os.environ.get("CONFIRMED") == "1"
_QUEUE_TYPE = "quorum" if _CONFIRMED else "classic"
_DELIVERY_MODE = DeliveryMode.PERSISTENT if _CONFIRMED else DeliveryMode.NOT_PERSISTENT

_POOL = 20
_CONSUMERS = 8
_PREFETCH = 4 * _CONSUMERS


@asynccontextmanager
async def _opened() -> AsyncIterator[OrderEndpoint]:
    redis = Redis(connection_pool=BlockingConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=_POOL))
    pool = asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=_POOL, max_size=_POOL)
    async with pool, await aio_pika.connect_robust(os.environ["AMQP_URL"]) as amqp, redis:
        exchange, _ = await declare(await amqp.channel(publisher_confirms=_CONFIRMED), _QUEUE_TYPE)

        async def take(order: Order) -> None:
            await pool.execute(INSERT_ORDER, *row(order))
            message = aio_pika.Message(encode_order(order), message_id=order.id, delivery_mode=_DELIVERY_MODE)
            await exchange.publish(message, CREATED, mandatory=_CONFIRMED)
            await redis.delete(f"orders:{order.product_id}")

        yield OrderEndpoint(Prices(lambda product_id: pool.fetchval(PRICE, product_id)), take)


app = order_app(_opened)


async def _consume() -> None:
    pool = asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=_CONSUMERS, max_size=_CONSUMERS)
    async with pool, await aio_pika.connect_robust(os.environ["AMQP_URL"]) as amqp:
        channel = await amqp.channel()
        await channel.set_qos(prefetch_count=_PREFETCH)
        _, queue = await declare(channel, _QUEUE_TYPE)

        async def decide(message: AbstractIncomingMessage) -> None:
            async with message.process(requeue=True):
                order = decode_order(message.body)
                assert isinstance(order, Order)
                with suppress(asyncpg.UniqueViolationError):  # a redelivery
                    await pool.execute(DECIDE, order.id, order.product_id, order.quantity)

        await queue.consume(decide)  # each message in a task of its own
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_consume())
