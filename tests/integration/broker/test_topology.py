"""The declared queues: their arguments, and that the broker obeys them."""

import aio_pika
import pytest

from pipeline.broker.batches import DeclareQueue
from pipeline.contract import topology
from tests.conftest import Servers
from tests.support.brokers.broker import Management, plain_channel, send, take

BOUNDED = {
    "x-queue-type": "quorum",
    "x-max-length": 2_000_000,
    "x-max-length-bytes": 2 * 1024**3,
    "x-overflow": "reject-publish",
}
DEAD_LETTERED = {
    "x-delivery-limit": 100,
    "x-dead-letter-exchange": "orders_dead_exchange",
    "x-dead-letter-strategy": "at-least-once",
}
WAYS = [
    (topology.declare_accepted, topology.ORDERS_ACCEPTED_QUEUE, topology.ORDER_ACCEPTED),
    (topology.declare_created, topology.ORDERS_CREATED_QUEUE, topology.ORDER_CREATED),
    (
        topology.declare_cancel_requested,
        topology.ORDERS_CANCEL_REQUESTED_QUEUE,
        topology.ORDER_CANCEL_REQUESTED,
    ),
]


@pytest.mark.parametrize(("declare", "queue", "_key"), WAYS)
async def test_p1_p8_a_queue_of_orders_is_durable_bounded_and_dead_letters_safely(
    amqp_url: str, servers: Servers, declare: DeclareQueue, queue: str, _key: str
) -> None:
    async with plain_channel(amqp_url) as channel, Management(servers.rabbitmq_api, amqp_url) as api:
        await declare(channel)
        assert await api.arguments(queue) == BOUNDED | DEAD_LETTERED
        assert await api.arguments(topology.ORDERS_DEAD_QUEUE) == BOUNDED | {"x-delivery-limit": 1_000_000_000}


@pytest.mark.parametrize(("declare", "queue", "key"), WAYS)
async def test_p1_what_is_rejected_is_kept_in_the_queue_of_the_dead(
    amqp_url: str, declare: DeclareQueue, queue: str, key: str
) -> None:
    async with plain_channel(amqp_url) as channel:
        declared = await declare(channel)
        await send(channel, topology.ORDERS_EXCHANGE, key, b"[1]")
        message = await declared.get()
        assert isinstance(message, aio_pika.IncomingMessage)
        await message.reject(requeue=False)
        assert await take(channel, topology.ORDERS_DEAD_QUEUE) == b"[1]"
