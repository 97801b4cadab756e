"""A batch consumer across cancels, reconnects, silent brokers and stops: nothing is lost (P1, P9)."""

import asyncio

import pytest
from aio_pika.abc import AbstractChannel, AbstractQueue

from pipeline.broker import batches
from pipeline.broker import connection as broker
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.deliveries import ClosedBy
from tests.conftest import Servers
from tests.support.brokers.batches import EXCHANGE, QUEUE, bodies_of, buffered, declare, make_consumer, queue_of, ready
from tests.support.brokers.broker import Management, running_task, send
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.time.conditions import eventually


async def test_a_consumer_that_the_broker_cancels_consumes_again(amqp_url: str, servers: Servers) -> None:
    async with queue_of(amqp_url, b"1") as channel, Management(servers.rabbitmq_api, amqp_url) as management:
        consumer = make_consumer(amqp_url)
        async with running_task(consumer.run()):
            batch = await consumer.next()
            assert batch is not None
            assert await consumer.settle(batch)
            await management.delete_queue(QUEUE)
            await eventually(lambda: consumer._epoch == 2)
            await send(channel, EXCHANGE, "thing", b"2")
            assert bodies_of(await consumer.next()) == [b"2"]


async def test_a_broker_that_forgot_everything_is_declared_to_again(amqp_url: str, servers: Servers) -> None:
    consumer = make_consumer(amqp_url)
    async with running_task(consumer.run()), Management(servers.rabbitmq_api, amqp_url) as management:
        await eventually(lambda: consumer._epoch == 1)
        await management.start_over()
        await eventually(lambda: consumer._epoch >= 2 and consumer._channel is not None)
        async with queue_of(amqp_url, b"1"):
            assert bodies_of(await consumer.next()) == [b"1"]


async def test_a_broker_that_is_slow_to_tell_its_depth_costs_no_redelivery(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_DEPTH_INTERVAL_S", 0.01)
    async with queue_of(amqp_url, b"1"), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url))
        async with running_task(consumer.run()):
            batch = await consumer.next()
            assert batch is not None
            proxy.hold()
            until = asyncio.get_running_loop().time() + 2.5
            await eventually(lambda: asyncio.get_running_loop().time() > until)
            proxy.release()
            assert await consumer.settle(batch)
        assert proxy.connections == 1


async def test_p9_stopping_ends_a_linger_at_once(amqp_url: str) -> None:
    async with queue_of(amqp_url, b"1"):
        consumer = make_consumer(amqp_url, linger_s=60)
        async with running_task(consumer.run()), asyncio.timeout(5):
            following = asyncio.create_task(consumer.next())
            await buffered(consumer, 1)
            await consumer.stop()
            batch = await following
            assert batch is not None
            assert batch.closed_by is ClosedBy.DRAIN
            assert await consumer.settle(batch)
            assert await consumer.next() is None


async def test_p9_stopping_an_idle_consumer_ends_its_wait(amqp_url: str) -> None:
    consumer = make_consumer(amqp_url)
    async with running_task(consumer.run()), asyncio.timeout(5):
        following = asyncio.create_task(consumer.next())
        await eventually(lambda: consumer._channel is not None)
        await consumer.stop()
        assert await following is None


async def test_p9_a_stopped_consumer_gives_what_it_has_and_takes_no_more(amqp_url: str) -> None:
    async with queue_of(amqp_url, *(b"%d" % it for it in range(4))) as channel:
        consumer = make_consumer(amqp_url, deliveries=3, linger_s=60)
        async with running_task(consumer.run()), asyncio.timeout(5):
            await buffered(consumer, 4)
            await consumer.stop()
            await send(channel, EXCHANGE, "thing", b"late")
            for expected in ([b"0", b"1", b"2"], [b"3"]):
                batch = await consumer.next()
                assert batch is not None
                assert (bodies_of(batch), batch.closed_by) == (expected, ClosedBy.DRAIN)
                assert await consumer.settle(batch)
            assert await consumer.next() is None
        await eventually(lambda: ready(amqp_url, 1))


async def test_p9_a_consumer_that_is_stopped_while_it_connects_takes_nothing(amqp_url: str) -> None:
    declaring, go_on = asyncio.Event(), asyncio.Event()

    async def declare_slowly(channel: AbstractChannel) -> AbstractQueue:
        queue = await declare(channel)
        declaring.set()
        await go_on.wait()
        return queue

    async with queue_of(amqp_url, b"1") as channel:
        consumer = make_consumer(amqp_url, declare=declare_slowly)
        async with running_task(consumer.run()), asyncio.timeout(5):
            await declaring.wait()
            await consumer.stop()
            go_on.set()
            # The consumer works on one channel in turn, so once it knows the depth, it has begun the next step.
            await eventually(lambda: _has_consumers_or_waits(channel, consumer))
            assert await consumer.next() is None
            assert (await channel.declare_queue(QUEUE, passive=True)).declaration_result.consumer_count == 0


async def _has_consumers_or_waits(channel: AbstractChannel, consumer: BatchConsumer) -> bool:
    queue = await channel.declare_queue(QUEUE, passive=True)
    return consumer.queue_name == QUEUE or bool(queue.declaration_result.consumer_count)


async def test_p9_stopping_does_not_wait_long_for_a_broker_that_is_silent(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_CANCEL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(broker, "_CLOSE_TIMEOUT_S", 0.1)
    async with queue_of(amqp_url, b"1"), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url))
        async with running_task(consumer.run()):
            await buffered(consumer, 1)
            proxy.hold()
            async with asyncio.timeout(3):
                await consumer.stop()
                assert bodies_of(await consumer.next()) == [b"1"]
                assert await consumer.next() is None


async def consume_all(consumer: BatchConsumer, proxy: Proxy, wanted: set[bytes], cut_every: int) -> None:
    """Take and settle batches until every message is settled. Cut the connection again and again meanwhile."""
    settled: set[bytes] = set()
    taken = 0
    while settled != wanted:
        batch = await consumer.next()
        assert batch is not None
        taken += 1
        if taken % cut_every == 0:
            proxy.cut()
        if await consumer.settle(batch):
            settled.update(bodies_of(batch))


async def test_p1_nothing_is_lost_on_a_line_that_is_cut_again_and_again(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "backoff_s", lambda attempt: 0.001)
    bodies = {b"%d" % it for it in range(24)}
    async with queue_of(amqp_url, *bodies), proxy_to(amqp_url) as proxy:
        consumer = make_consumer(proxy.url(amqp_url), deliveries=4)
        async with running_task(consumer.run()), asyncio.timeout(20):
            await consume_all(consumer, proxy, bodies, cut_every=3)
        assert proxy.connections > 3
