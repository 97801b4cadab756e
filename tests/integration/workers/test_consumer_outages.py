"""A consumer that is stuck: its batch cannot be written, or the broker delivers nothing to it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pipeline.broker import batches
from pipeline.broker.batches import BatchConsumer
from tests.support.brokers.batches import QUEUE, bodies_of, buffered, hold_for_ever, make_consumer, queue_of, ready
from tests.support.brokers.broker import consumers_of, delivery_counts, running_task
from tests.support.data.metrics import grown, sample
from tests.support.faults.faults import cut_until_reconnected, proxy_to
from tests.support.time.conditions import eventually


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_DEPTH_INTERVAL_S", 0.02)


def says(consumer: BatchConsumer, what: str) -> bool:
    """Whether the consumer is not ready, for this reason."""
    return what in str(consumer._health.summary()) and not consumer._health.is_ready


async def settle_next(consumer: BatchConsumer) -> list[bytes]:
    """Take a batch and acknowledge it. Returns its bodies."""
    batch = await consumer.next()
    assert batch is not None
    assert await consumer.settle(batch)
    return bodies_of(batch)


async def settle_all(consumer: BatchConsumer, count: int) -> set[bytes]:
    settled: list[bytes] = []
    while len(settled) < count:
        settled += await settle_next(consumer)
    assert len(settled) == count
    return set(settled)


# ── held for too long


WAITS = "consumes nothing before the batch in hand is done"


async def test_p1_what_is_held_for_too_long_is_given_back_and_taken_again_when_the_batch_is_done(
    amqp_url: str,
) -> None:
    async with queue_of(amqp_url, b"1", b"2", b"3"), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url), deliveries=2, hold_s=0.3)
        async with running_task(consumer.run()), grown(sample("headrace_given_back_total", queue=QUEUE)) as growth:
            await buffered(consumer, 3)
            batch = await consumer.next()
            assert batch is not None
            await eventually(lambda: says(consumer, WAITS))
            await eventually(lambda: ready(amqp_url, 3))
            assert not consumer._buffer
            hold_for_ever(consumer)
            assert not await consumer.settle(batch)
            await eventually(lambda: consumer._health.is_ready)
            async with asyncio.timeout(10):
                assert await settle_all(consumer, 3) == {b"1", b"2", b"3"}
            assert growth() == [1]
        await eventually(lambda: ready(amqp_url, 0))
        assert proxy.connections == 1


async def test_p1_however_long_and_however_often_the_broker_goes_meanwhile_a_message_is_delivered_once_more(
    amqp_url: str,
) -> None:
    """The broker counts deliveries, and treats a message that returns too often as poison."""
    async with queue_of(amqp_url, b"1", b"2", b"3"), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url), deliveries=2, hold_s=0.1)
        async with running_task(consumer.run()), grown(sample("headrace_redeliveries_total", queue=QUEUE)) as growth:
            await buffered(consumer, 3)
            batch = await consumer.next()
            assert batch is not None
            for _ in range(5):
                await eventually(lambda: says(consumer, WAITS))
                await cut_until_reconnected(proxy)
            await eventually(lambda: says(consumer, WAITS))
            assert not await consumer.settle(batch)
            await buffered(consumer, 3)
            assert growth() == [3]
        await eventually(lambda: ready(amqp_url, 3))
    assert max(await delivery_counts(amqp_url, QUEUE)) <= 2  # the second delivery comes when this consumer ends


async def test_p1_a_line_that_is_cut_again_and_again_under_a_batch_costs_one_delivery(amqp_url: str) -> None:
    """Each new session would get all messages again, and could not settle them."""
    async with queue_of(amqp_url, b"1", b"2", b"3"), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url), deliveries=2)
        async with running_task(consumer.run()), grown(sample("headrace_redeliveries_total", queue=QUEUE)) as growth:
            await buffered(consumer, 3)
            batch = await consumer.next()
            assert batch is not None
            for _ in range(5):
                await cut_until_reconnected(proxy)
                await eventually(lambda: says(consumer, WAITS))
            assert not await consumer.settle(batch)
            await buffered(consumer, 3)
            assert growth() == [3]


async def test_p9_a_consumer_that_has_given_back_what_it_had_can_be_stopped(amqp_url: str) -> None:
    async with queue_of(amqp_url, b"1", b"2", b"3"):
        consumer = make_consumer(amqp_url, deliveries=2, hold_s=0.1)
        async with running_task(consumer.run()), asyncio.timeout(10):
            batch = await consumer.next()
            assert batch is not None
            await eventually(lambda: says(consumer, WAITS))
            await consumer.stop()
            assert not await consumer.settle(batch)
            assert await consumer.next() is None
            await eventually(lambda: ready(amqp_url, 3))
            assert await consumers_of(amqp_url, QUEUE) == 0


# ── nothing is delivered

STALLED = "messages are ready and none is delivered"


@pytest.fixture
async def stalled() -> AsyncIterator[list[float]]:
    """The values of /metrics, look after look."""
    seen: list[float] = []
    read = sample("headrace_consumer_stalled", queue=QUEUE)

    async def watch() -> None:
        await eventually(lambda: seen.append(read()), timeout_s=3600)

    async with running_task(watch()):
        yield seen


async def test_acks_that_got_lost_are_noticed_and_mended(
    amqp_url: str, stalled: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker waits for acks, and has sent all messages that the prefetch allows."""
    async with queue_of(amqp_url, *(b"%d" % it for it in range(6))):
        consumer = make_consumer(amqp_url, deliveries=1)
        async with running_task(consumer.run()), asyncio.timeout(20):
            await eventually(lambda: consumer._channel is not None)
            monkeypatch.setattr(consumer._channel, "basic_ack", lost)
            for _ in range(2):
                await settle_next(consumer)
            await eventually(lambda: says(consumer, f"4 {STALLED}; the queue has 1 consumers"))
            await eventually(lambda: consumer._epoch == 2)
            assert await settle_all(consumer, 6) == {b"%d" % it for it in range(6)}
            await eventually(lambda: consumer._health.is_ready and stalled[-1] == 0)
            assert 1 in stalled
        await eventually(lambda: ready(amqp_url, 0))


async def lost(*_: object, **__: object) -> None:
    """Drops an ack before it reaches the broker."""


async def test_a_consumer_that_the_broker_does_not_know_is_noticed_and_mended(
    amqp_url: str, stalled: list[float]
) -> None:
    async with queue_of(amqp_url):
        consumer = make_consumer(amqp_url)
        async with running_task(consumer.run()), asyncio.timeout(20):
            await eventually(lambda: consumer._channel is not None)
            await eventually(lambda: consumers_of(amqp_url, QUEUE))
            assert consumer._channel is not None
            await consumer._channel.basic_cancel(consumer._consumer_tag)
            await eventually(lambda: says(consumer, "the queue has 0 consumers"))
            await eventually(lambda: consumer._epoch == 2 and consumer._health.is_ready)
            await eventually(lambda: consumers_of(amqp_url, QUEUE))
            await eventually(lambda: stalled[-1] == 0)
            assert 1 in stalled


async def test_a_consumer_that_is_slow_is_left_in_peace(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many messages are ready as before and none is delivered, but only because the worker has not settled any."""
    looks = 0
    look_at = batches._look_at

    async def counted(*args: object) -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return await look_at(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(batches, "_look_at", counted)
    async with queue_of(amqp_url, *(b"%d" % it for it in range(6))), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url), deliveries=1)
        async with running_task(consumer.run()):
            batch = await consumer.next()
            assert batch is not None
            await eventually(lambda: looks > 20)
            assert consumer._health.is_ready
            assert await consumer.settle(batch)
            assert await settle_all(consumer, 5) == {b"%d" % it for it in range(1, 6)}
        assert proxy.connections == 1
