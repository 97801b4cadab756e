"""Makes the broker dead-letter messages, consumes them as persist_worker does, and runs `./headrace dead`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from persist_worker.dead_letter_consumer import PART, DeadLetterConsumer
from persist_worker.settings import PersistSettings
from persist_worker.worker import PUBLISHER
from pipeline.broker.publisher import Publisher
from pipeline.contract import topology
from pipeline.process.health import Health
from stack.home.directory import ROOT
from tests.support.brokers.broker import plain_channel, running_task
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually


@asynccontextmanager
async def dead_letter_consumer(environment: Mapping[str, str]) -> AsyncIterator[DeadLetterConsumer]:
    """A connected dead-letter consumer. A test calls `run_once` for each batch."""
    health = Health("persist_worker", PART, PUBLISHER)
    consumer, publisher = make_dead_letter_consumer(environment, health)
    try:
        async with running_task(consumer._consumer.run(), publisher.run()):
            await eventually(lambda: health.is_ready)
            yield consumer
    finally:
        await consumer._database.close()


def make_dead_letter_consumer(environment: Mapping[str, str], health: Health) -> tuple[DeadLetterConsumer, Publisher]:
    """A dead-letter consumer, and the publisher that it shares with the worker. The caller runs the publisher.

    `health`: has the parts of both.
    """
    settings = settings_from(PersistSettings, environment)
    publisher = Publisher(settings, health, PUBLISHER, topology.declare_created)
    return DeadLetterConsumer.of(settings, health, publisher), publisher


async def reject(amqp_url: str, queue_name: str) -> None:
    """Reject the next message of a queue without requeueing it. No worker of ours does that."""
    async with plain_channel(amqp_url) as channel:
        await (await _next_message(channel, queue_name)).reject(requeue=False)


async def return_too_often(amqp_url: str, queue_name: str) -> int:
    """Requeue the only message of a queue until the broker dead-letters it. Returns how often it was requeued."""
    async with plain_channel(amqp_url) as channel:
        dead = await topology.declare_dead(channel)
        before = await _depth(channel, dead.name)
        for times in range(1000):
            message = await _next_message_unless_dead(channel, queue_name, before)
            if message is None:
                return times
            await message.reject(requeue=True)
    raise AssertionError("the broker never dead-lettered the message")


async def _next_message_unless_dead(
    channel: AbstractChannel, queue_name: str, dead_before: int
) -> AbstractIncomingMessage | None:
    queue = await channel.get_queue(queue_name, ensure=False)

    async def look() -> tuple[AbstractIncomingMessage | None] | None:
        message = await queue.get(fail=False)
        is_dead = message is None and await _depth(channel, topology.ORDERS_DEAD_QUEUE) > dead_before
        return (message,) if message is not None or is_dead else None

    return (await eventually(look))[0]


async def _next_message(channel: AbstractChannel, queue_name: str) -> AbstractIncomingMessage:
    queue = await channel.get_queue(queue_name, ensure=False)

    async def get() -> AbstractIncomingMessage | None:
        return await queue.get(fail=False)

    message = await eventually(get)
    assert message is not None
    return message


async def _depth(channel: AbstractChannel, queue_name: str) -> int:
    declared = await channel.declare_queue(queue_name, passive=True)
    return declared.declaration_result.message_count or 0


async def headrace_dead(environment: Mapping[str, str], *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run `./headrace dead …` on the servers of DATABASE_URL and AMQP_URL. Returns standard output and error."""
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "stack", "dead", *arguments),
        cwd=ROOT,
        env={**os.environ, "HEADRACE_HOME": "/nonexistent", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await command.communicate()
    assert command.returncode == code, (out, err)
    return out.decode(), err.decode()
