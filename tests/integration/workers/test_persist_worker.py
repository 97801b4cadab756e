"""persist_worker on real services, one batch at a time: write, forward, ack, and a death at each point in between."""

import asyncio
from decimal import Decimal

import pytest

from database import connection as database_connection
from persist_worker import forward as forward_module
from pipeline.broker import batches
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA
from pipeline.contract.reasons import Reason
from tests.support.brokers.broker import gets_back, plain_channel, send, unsettled
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.persisting import accept, accept_raw, forwarded, stored
from tests.support.services.workers import buffered, locked, persist_worker
from tests.support.time.conditions import eventually

A = new_product_id()
ACCEPTED, CREATED = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 0.01)
    monkeypatch.setattr(forward_module, "backoff_s", lambda attempt: 0.01)


async def test_a_batch_is_stored_forwarded_byte_by_byte_and_acknowledged(environment: dict[str, str]) -> None:
    first = [order(A, 2, price="1500.00", request_hash="00ff"), order(A, traceparent="00-ab-cd-01")]
    second = [order(A)]
    await accept(environment, first, second)
    async with persist_worker(environment) as worker:
        await buffered(worker, 2)
        assert await worker.run_once() == 3
    assert await stored(environment) == {it.id: (A, it.quantity) for it in (*first, *second)}
    assert await forwarded(environment) == [body_of(*first, *second)]
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_what_is_forwarded_says_how_many_orders_it_is(environment: dict[str, str]) -> None:
    """product_consumer bounds its batches by this header, without decoding bodies."""
    await accept(environment, [order(A) for _ in range(7)])
    async with persist_worker(environment) as worker:
        await worker.run_once()
    async with plain_channel(environment["AMQP_URL"]) as channel:
        message = await (await channel.get_queue(CREATED, ensure=False)).get()
        assert message is not None
        assert message.headers.items() >= {"schema": SCHEMA, "orders": 7}.items()
        assert message.delivery_mode == 2


async def test_a_message_without_orders_is_acknowledged_and_nothing_forwarded(environment: dict[str, str]) -> None:
    await accept_raw(environment, b"[]")
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 0
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0
    assert await forwarded(environment) == []


async def test_p9_a_worker_that_is_told_to_stop_finishes_what_it_has(environment: dict[str, str]) -> None:
    await accept(environment, [order(A)], [order(A)], [order(A)])
    async with persist_worker(environment, batch_max_deliveries=2) as worker:
        await buffered(worker, 3)
        await worker.consumer.stop()
        assert [await worker.run_once() for _ in range(3)] == [2, 1, None]
    assert len(await stored(environment)) == 3
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


# ── a death at each point


@pytest.mark.parametrize("point", ["commit", "forward", "ack"])
async def test_p1_p2_a_death_before_each_step_costs_no_order_and_doubles_none(
    environment: dict[str, str], point: str
) -> None:
    orders = [order(A) for _ in range(5)]
    await accept(environment, orders)
    async with persist_worker(environment) as worker:
        owner, method = {
            "commit": (worker.database, "until_it_works"),
            "forward": (worker.publisher, "publish"),
            "ack": (worker.consumer, "settle"),
        }[point]
        await worker.die_before(owner, method)
    await gets_back(environment["AMQP_URL"], ACCEPTED, 1)
    assert len(await stored(environment)) == (0 if point == "commit" else 5)
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 5
    assert await stored(environment) == {it.id: (A, 1) for it in orders}
    assert await forwarded(environment) == [body_of(*orders)] * (2 if point == "ack" else 1)
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_p2_a_batch_that_outlives_its_channel_comes_again_and_is_stored_once(
    environment: dict[str, str],
) -> None:
    orders = [order(A) for _ in range(5)]
    await accept(environment, orders)
    async with proxy_to(environment["AMQP_URL"]) as proxy:
        far = {**environment, "AMQP_URL": proxy.url(environment["AMQP_URL"])}
        async with persist_worker(far) as worker:
            async with locked(environment["DATABASE_URL"], "orders"):
                batch = asyncio.create_task(worker.run_once())
                await eventually(lambda: worker.consumer._buffered_orders == 0 and not batch.done())
                await buffered(worker, 0)
                proxy.cut()
                await eventually(lambda: "consumes nothing before" in str(worker.database._health.summary()))
                await eventually(lambda: worker.publisher.is_open)
            assert await batch == 5
            assert await worker.run_once() == 5
    assert await stored(environment) == {it.id: (A, 1) for it in orders}
    assert await forwarded(environment) == [body_of(*orders)] * 2
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_the_metrics_tell_what_became_of_a_batch(environment: dict[str, str]) -> None:
    samples = [
        sample("headrace_orders_stored_total"),
        sample("headrace_accept_to_stored_seconds_count"),
        sample("headrace_orders_duplicate_total", stage="persist"),
        sample("headrace_orders_parked_total", stage="persist", reason=Reason.INVALID_DATA),
        sample("headrace_copy_path_total", path="direct"),
        sample("headrace_copy_path_total", path="staging"),
        sample("headrace_copy_path_total", path="bisect"),
        sample("headrace_batch_seconds_count", queue=ACCEPTED),
    ]
    orders, twice, poisoned = [order(A) for _ in range(3)], order(A), [order(A), order(A, 0, total_price=Decimal(0))]
    async with grown(*samples) as growth, persist_worker(environment) as worker:
        for batch in (orders, [*orders, twice], [twice, twice], poisoned, poisoned):
            await accept(environment, batch)
            await worker.run_once()
    assert growth() == [5, 5, 6, 1, 1, 2, 2, 5]


async def test_the_metrics_tell_how_much_waits_and_how_much_is_dead(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_DEPTH_INTERVAL_S", 0.01)
    depths = [sample("headrace_queue_depth_messages", queue=it) for it in (ACCEPTED, topology.ORDERS_DEAD_QUEUE)]
    await accept(environment, *([order(A)] for _ in range(7)))
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await send(channel, topology.DEAD_EXCHANGE, topology.ORDER_ACCEPTED, b"[]", b"[]")
    async with persist_worker(environment, prefetch=4, batch_max_deliveries=2):
        await eventually(lambda: [read() for read in depths] == [3, 2])
