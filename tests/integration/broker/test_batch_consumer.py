"""Batches from a real broker: why they close, that an ack settles one batch, that a dead channel loses nothing."""

import asyncio

import pytest
from structlog.testing import capture_logs

from pipeline.broker.deliveries import ClosedBy
from pipeline.process import metrics
from tests.support.brokers.batches import EXCHANGE, QUEUE, bodies_of, buffered, make_consumer, queue_of, ready
from tests.support.brokers.broker import running_task, send
from tests.support.data.metrics import grown, sample
from tests.support.faults.faults import proxy_to
from tests.support.time.conditions import eventually


def closed_count(why: ClosedBy) -> float:
    labels = {"queue": QUEUE, "closed_by": why.value}
    return metrics.REGISTRY.get_sample_value("headrace_batches_closed_total", labels) or 0


# ── why a batch closes


@pytest.mark.parametrize(
    ("limits", "orders", "expected", "why"),
    [
        ({"deliveries": 2, "linger_s": 60}, None, [b"1", b"2"], ClosedBy.SIZE),
        ({"orders": 30, "linger_s": 60}, 10, [b"1", b"2", b"3"], ClosedBy.SIZE),
        ({"orders": 25, "linger_s": 60}, 10, [b"1", b"2", b"3"], ClosedBy.SIZE),
        ({"size_bytes": 2, "linger_s": 60}, None, [b"1", b"2"], ClosedBy.BYTES),
        ({"linger_s": 0}, None, [b"1", b"2", b"3", b"4"], ClosedBy.IDLE),
    ],
)
async def test_a_batch_knows_why_it_closed(
    amqp_url: str, limits: dict[str, float], orders: int | None, expected: list[bytes], why: ClosedBy
) -> None:
    before = closed_count(why)
    async with queue_of(amqp_url, b"1", b"2", b"3", b"4", orders=orders):
        consumer = make_consumer(amqp_url, **limits)  # type: ignore[arg-type]
        async with running_task(consumer.run()):
            await buffered(consumer, 4)
            batch = await consumer.next()
    assert batch is not None
    assert (bodies_of(batch), batch.closed_by) == (expected, why)
    assert closed_count(why) == before + 1


async def test_the_metrics_say_how_big_batches_are(amqp_url: str) -> None:
    def observed() -> tuple[float, float]:
        values = (
            metrics.REGISTRY.get_sample_value(f"headrace_batch_orders_{it}", {"queue": QUEUE})
            for it in ("count", "sum")
        )
        count, total = (value or 0 for value in values)
        return count, total

    before = observed()
    async with queue_of(amqp_url, b"1", b"2", orders=20):
        consumer = make_consumer(amqp_url)
        async with running_task(consumer.run()):
            await buffered(consumer, 2)
            await consumer.next()
    assert observed() == (before[0] + 1, before[1] + 40)


async def test_a_batch_that_lingers_takes_what_comes_meanwhile(amqp_url: str) -> None:
    async with queue_of(amqp_url) as channel:
        consumer = make_consumer(amqp_url, linger_s=2)
        async with running_task(consumer.run()):
            following = asyncio.create_task(consumer.next())
            await send(channel, EXCHANGE, "thing", b"1")
            await buffered(consumer, 1)
            await send(channel, EXCHANGE, "thing", b"2")
            batch = await following
    assert batch is not None
    assert (bodies_of(batch), batch.closed_by) == ([b"1", b"2"], ClosedBy.LINGER)


async def test_p8_what_is_left_of_a_full_buffer_is_the_next_batch(amqp_url: str) -> None:
    async with queue_of(amqp_url, *(b"%d" % it for it in range(10))):
        consumer = make_consumer(amqp_url, deliveries=4)
        async with running_task(consumer.run()):
            await buffered(consumer, 8)
            assert [bodies_of(await consumer.next()) for _ in range(2)] == [
                [b"0", b"1", b"2", b"3"],
                [b"4", b"5", b"6", b"7"],
            ]
            assert not consumer._buffer


async def test_messages_of_all_sizes_keep_their_order_and_their_tags_grow(amqp_url: str) -> None:
    """An ack settles all messages up to its tag, so a tag out of order would settle another batch."""
    bodies = [b"%d " % it + b"x" * (it % 7 * 40_000) for it in range(60)]
    async with queue_of(amqp_url, *bodies):
        consumer = make_consumer(amqp_url, deliveries=50, size_bytes=10**9)
        async with running_task(consumer.run()):
            await buffered(consumer, 60)
            deliveries = [*consumer._buffer]
    assert [it.body for _, it in deliveries] == bodies
    assert [it.tag for _, it in deliveries] == [*range(1, 61)]


# ── settling


async def test_p1_an_ack_settles_exactly_its_batch(amqp_url: str) -> None:
    async with queue_of(amqp_url, *(b"%d" % it for it in range(5))):
        consumer = make_consumer(amqp_url, deliveries=2, linger_s=60)
        async with running_task(consumer.run()):
            await buffered(consumer, 4)
            batch = await consumer.next()
            assert batch is not None
            assert await consumer.settle(batch)
        await eventually(lambda: ready(amqp_url, 3))


async def test_p1_a_batch_in_hand_when_its_channel_dies_comes_again(amqp_url: str) -> None:
    async with queue_of(amqp_url, b"1", b"2"), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url))
        async with running_task(consumer.run()):
            await buffered(consumer, 2)
            batch = await consumer.next()
            assert batch is not None
            proxy.cut()
            await eventually(lambda: proxy.connections == 2)
            async with grown(sample("headrace_batch_seconds_count", queue=QUEUE)) as growth:
                assert not await consumer.settle(batch)
            assert growth() == [0]
            await buffered(consumer, 2)
            with capture_logs() as logs:
                again = await consumer.next()
            assert again is not None
            assert bodies_of(again) == [b"1", b"2"]
            assert all(it.redelivered for it in again.deliveries)
            assert [it["messages"] for it in logs if it["event"] == "batch with redeliveries"] == [2]
            assert await consumer.settle(again)
        await eventually(lambda: ready(amqp_url, 0))


async def test_p1_a_batch_is_not_settled_on_a_channel_that_has_just_died(amqp_url: str) -> None:
    async with queue_of(amqp_url, b"1"), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url))
        async with running_task(consumer.run()):
            batch = await consumer.next()
            assert batch is not None
            assert consumer._channel is not None
            channel = consumer._channel
            proxy.refuses = True
            proxy.cut()
            await eventually(lambda: channel.is_closed)
            assert not await consumer.settle(batch)


async def test_p1_what_lingers_when_its_channel_dies_comes_once(amqp_url: str) -> None:
    async with queue_of(amqp_url, b"1", b"2"), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url), linger_s=1)
        async with running_task(consumer.run()):
            following = asyncio.create_task(consumer.next())
            await buffered(consumer, 2)
            proxy.cut()
            batch = await following
            assert batch is not None
            if batch.epoch == 1:  # the batch closed before the broker was back
                assert not await consumer.settle(batch)
                batch = await consumer.next()
                assert batch is not None
            assert bodies_of(batch) == [b"1", b"2"]
            assert await consumer.settle(batch)
        await eventually(lambda: ready(amqp_url, 0))
