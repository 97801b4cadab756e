"""Publishing to a real broker: each message has one outcome, which is true and within its deadline (P1, P8)."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aio_pika.abc import AbstractChannel

from pipeline.broker import publisher as publisher_module
from pipeline.broker.publisher import Outcome, Publisher
from tests.support.brokers.broker import plain_channel, running_task, take
from tests.support.brokers.publishers import EXCHANGE, QUEUE, make_publisher, publish, running_publisher
from tests.support.data.metrics import grown, sample
from tests.support.time.conditions import eventually

# ── one message, one outcome


async def test_p1_confirmed_means_that_it_is_in_the_queue(amqp_url: str) -> None:
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        assert await publish(publisher, b"[1]") is Outcome.CONFIRMED
        assert await take(channel, QUEUE) == b"[1]"


async def test_p1_a_message_is_persistent_and_says_its_schema_and_size(amqp_url: str) -> None:
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        await publisher.publish(EXCHANGE, "thing", b"[1,2]", orders=2)
        queue = await channel.get_queue(QUEUE)
        message = await queue.get()
        assert message is not None
        assert {"schema": 1, "orders": 2}.items() <= message.headers.items()
        assert message.delivery_mode == 2
        await message.ack()


async def test_p1_no_binding_is_unroutable_and_spoils_nothing(amqp_url: str) -> None:
    async with running_publisher(amqp_url) as publisher:
        assert await publish(publisher, key="nobody listens") is Outcome.UNROUTABLE
        assert await publish(publisher) is Outcome.CONFIRMED


async def test_p8_never_connected_is_not_sent() -> None:
    publisher = make_publisher("amqp://guest:guest@127.0.0.1:1/%2F")
    async with running_task(publisher.run()):
        assert await publish(publisher) is Outcome.NOT_SENT


async def delete_the_queue(channel: AbstractChannel) -> None:
    await channel.queue_delete(QUEUE)


async def remove_the_binding(channel: AbstractChannel) -> None:
    await (await channel.get_queue(QUEUE, ensure=False)).unbind(EXCHANGE, "thing")


async def delete_the_exchange(channel: AbstractChannel) -> None:
    await channel.exchange_delete(EXCHANGE)


@pytest.mark.parametrize(
    ("destroy", "refusal"),
    [
        (delete_the_queue, Outcome.UNROUTABLE),
        (remove_the_binding, Outcome.UNROUTABLE),
        (delete_the_exchange, Outcome.UNKNOWN),  # the broker closes the channel, so the message's outcome is unknown
    ],
)
async def test_p8_what_somebody_deletes_at_the_broker_is_declared_again(
    amqp_url: str, destroy: Callable[[AbstractChannel], Awaitable[None]], refusal: Outcome
) -> None:
    """The broker does not announce a deletion. The first message fails, with its true outcome."""
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        for _ in range(2):
            assert await publish(publisher, b"[1]") is Outcome.CONFIRMED
            assert await take(channel, QUEUE) == b"[1]"
            await destroy(channel)
            assert await publish(publisher, b"[2]") is refusal
            await eventually(lambda: _confirms(publisher))
            assert await take(channel, QUEUE) == b"[3]"


async def _confirms(publisher: Publisher) -> bool:
    return await publish(publisher, b"[3]") is Outcome.CONFIRMED


async def test_p8_however_much_is_unroutable_all_is_declared_once_a_second(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "_BLOCKED_INTERVAL_S", 0.01)
    loop = asyncio.get_running_loop()
    redeclared = sample("headrace_broker_redeclarations_total", connection="publisher")
    async with running_publisher(amqp_url) as publisher, grown(redeclared) as growth:
        began = loop.time()

        async def is_refused_for_long() -> bool:
            assert await publish(publisher, key="nobody listens") is Outcome.UNROUTABLE
            return loop.time() > began + 2.5

        await eventually(is_refused_for_long)
        assert 2 <= growth()[0] <= 1 + (loop.time() - began)


async def test_p8_what_cannot_be_declared_again_is_told_and_tried_until_it_can(amqp_url: str) -> None:
    """Another queue has the name of ours."""
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        await channel.queue_delete(QUEUE)
        await channel.declare_queue(QUEUE, durable=True)
        assert await publish(publisher) is Outcome.UNROUTABLE
        await eventually(lambda: "PRECONDITION_FAILED" in str(publisher._health.summary()))
        assert not publisher._health.is_ready
        assert await publish(publisher) is Outcome.NOT_SENT
        await channel.queue_delete(QUEUE)
        await eventually(lambda: _confirms(publisher))
        assert publisher._health.is_ready


async def test_the_broker_is_told_how_soon_to_miss_us(amqp_url: str) -> None:
    """With the client's default of 60 s, a dead broker is noticed after three minutes."""
    async with running_publisher(amqp_url, amqp_heartbeat_s=7) as publisher:
        assert publisher._channel is not None
        assert publisher._channel.underlay.connection.connection_tune.heartbeat == 7
