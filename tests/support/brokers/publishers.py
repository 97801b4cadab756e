"""A running Publisher, and the queue that it publishes to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

from pipeline.broker.publisher import Outcome, Publisher
from pipeline.process.health import Health
from tests.support.brokers.broker import broker_settings, running_task, unsettled
from tests.support.time.conditions import eventually

EXCHANGE, QUEUE = "things_exchange", "things"


async def declare_unbounded(channel: AbstractChannel) -> None:
    await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(EXCHANGE, "thing")


def make_publisher(amqp_url: str, **changes: object) -> Publisher:
    settings = broker_settings(amqp_url, **changes)
    return Publisher(settings, Health("test", "publisher"), "publisher", declare_unbounded)


@asynccontextmanager
async def running_publisher(amqp_url: str, **changes: object) -> AsyncIterator[Publisher]:
    publisher = make_publisher(amqp_url, **changes)
    async with running_task(publisher.run()):
        await eventually(lambda: publisher.is_open)
        yield publisher


async def publish(publisher: Publisher, body: bytes = b"[]", key: str = "thing") -> Outcome:
    return await publisher.publish(EXCHANGE, key, body)


async def in_queue(amqp_url: str, count: int) -> bool:
    return await unsettled(amqp_url, QUEUE) == count
