"""A queue of a test's own, and a BatchConsumer on it."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractQueue

from pipeline.broker.batches import BatchConsumer, DeclareQueue
from pipeline.broker.deliveries import Batch, BatchLimits
from pipeline.process.health import Health
from tests.support.brokers.broker import broker_settings, plain_channel, send, unsettled
from tests.support.time.conditions import eventually

EXCHANGE, QUEUE = "things_exchange", "things"


async def declare(channel: AbstractChannel) -> AbstractQueue:
    exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(exchange, "thing")
    return queue


def make_consumer(
    amqp_url: str,
    *,
    orders: int = 100,
    size_bytes: int = 10_000,
    deliveries: int = 8,
    linger_s: float = 0,
    hold_s: float = math.inf,
    declare: DeclareQueue = declare,
) -> BatchConsumer:
    """A consumer with a prefetch of twice `deliveries`."""
    limits = BatchLimits(orders, size_bytes, deliveries, linger_s, hold_s)
    health = Health("test", "consumer")
    return BatchConsumer(broker_settings(amqp_url), health, "consumer", declare, limits, prefetch=2 * deliveries)


@asynccontextmanager
async def queue_of(amqp_url: str, *bodies: bytes, orders: int | None = None) -> AsyncIterator[AbstractChannel]:
    """Fill the queue with one message for each body. Yields a channel to send more."""
    async with plain_channel(amqp_url) as channel:
        await declare(channel)
        headers = {"schema": 1} if orders is None else {"schema": 1, "orders": orders}
        await send(channel, EXCHANGE, "thing", *bodies, headers=headers)
        yield channel


async def ready(amqp_url: str, count: int) -> bool:
    """Whether `count` messages are ready, so no consumer holds them."""
    return await unsettled(amqp_url, QUEUE) == count


def hold_for_ever(consumer: BatchConsumer) -> None:
    """Never give a batch back, however slow the machine is."""
    consumer._limits = replace(consumer._limits, hold_s=math.inf)


def bodies_of(batch: Batch | None) -> list[bytes]:
    assert batch is not None
    return [it.body for it in batch.deliveries]


async def buffered(consumer: BatchConsumer, count: int) -> None:
    """Wait until the buffer holds `count` deliveries."""
    await eventually(lambda: len(consumer._buffer) == count)
