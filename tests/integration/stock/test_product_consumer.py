"""product_consumer on real services, one batch at a time: decide and commit, bust, announce, ack."""

import asyncio

import pytest
from structlog.testing import capture_logs

from database.connection import Connection
from pipeline.cache.product_cache import ProductCache
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMAS, encode_order, join_orders
from pipeline.contract.reasons import Reason
from tests.support.brokers.broker import gets_back, unsettled
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.deciding import create, create_raw, heard, product_events
from tests.support.services.workers import (
    DeadRow,
    Worker,
    add_product,
    buffered,
    dead_letters,
    locked,
    product_consumer,
    qty_of,
    verdicts,
    wait_20_ms_for_locks,
)
from tests.support.time.conditions import eventually

A, B, UNKNOWN = (new_product_id() for _ in range(3))
CREATED = topology.ORDERS_CREATED_QUEUE
_OLD = b'{"qty":"as it was"}'


async def test_the_worked_example(environment: dict[str, str], connection: Connection, cache: ProductCache) -> None:
    await add_product(connection, A, 50)
    await cache.fill(A, 1, _OLD)
    it = order(A, 2)
    await create(environment, [it])
    async with product_events(environment) as events, product_consumer(environment) as worker:
        assert await worker.run_once() == 1
        assert await heard(events) == []
    assert await verdicts(connection) == {it.id: None}
    assert await qty_of(connection, A) == 48
    assert await cache.read(A) is None
    assert not await cache.fill(A, 1, _OLD)
    assert await unsettled(environment["AMQP_URL"], CREATED) == 0


async def test_metrics_and_log_tell_what_became_of_a_batch(environment: dict[str, str], connection: Connection) -> None:
    await add_product(connection, A, 2)
    orders = [order(A, 2), order(A)]
    await create(environment, orders, orders)
    await create_raw(environment, b"no JSON")
    samples = [
        sample("headrace_accept_to_decided_seconds_count"),
        sample("headrace_orders_decided_total", outcome="PROCESSED", reason=""),
        sample("headrace_orders_decided_total", outcome="FAILED", reason=Reason.OUT_OF_STOCK),
        sample("headrace_orders_duplicate_total", stage="stock"),
        sample("headrace_orders_parked_total", stage="stock", reason=Reason.UNREADABLE),
        sample("headrace_batch_seconds_count", queue=CREATED),
    ]
    async with grown(*samples) as growth, product_consumer(environment) as worker:
        await buffered(worker, 3)
        with capture_logs() as logs:
            await worker.run_once()
        assert growth() == [2, 1, 1, 2, 1, 1]
        assert [it["repeated"] for it in logs if it["event"] == "batch with repetitions"] == [2]
        assert [it["products"] for it in logs if it["event"] == "sold out"] == [[A]]
        for _ in range(2):  # a redelivery of everything
            await create(environment, orders)
            await create_raw(environment, b"no JSON")
            await buffered(worker, 2)
            with capture_logs() as logs:
                await worker.run_once()
            assert "sold out" not in [it["event"] for it in logs], "it is still the same end of the same product"
        assert growth() == [2, 1, 1, 6, 1, 3]


async def test_p4_every_order_of_a_batch_gets_its_verdict(environment: dict[str, str], connection: Connection) -> None:
    await add_product(connection, A, 3)
    await add_product(connection, B, 3)
    await connection.execute("UPDATE products SET deleted_at = now() WHERE id = $1", B)
    first, second, deleted, unknown = order(A, 2, at_ms=0), order(A, 2, at_ms=1), order(B), order(UNKNOWN)
    await create(environment, [second, unknown], [deleted, first, second])
    async with product_events(environment) as events, product_consumer(environment) as worker:
        await buffered(worker, 2)
        assert await worker.run_once() == 5
        assert await heard(events) == []
    assert await verdicts(connection) == {
        first.id: None,
        second.id: Reason.OUT_OF_STOCK,
        deleted.id: Reason.PRODUCT_DELETED,
        unknown.id: Reason.UNKNOWN_PRODUCT,
    }


# ── redelivery, and two at once


async def test_p2_a_batch_that_outlives_its_channel_is_decided_once(
    environment: dict[str, str], connection: Connection
) -> None:
    await add_product(connection, A, 5)
    orders = [order(A, 2) for _ in range(3)]
    await create(environment, orders)
    async with proxy_to(environment["AMQP_URL"]) as proxy:
        far = {**environment, "AMQP_URL": proxy.url(environment["AMQP_URL"])}
        async with product_consumer(far) as worker, product_consumer(environment) as neighbour:
            await (worker if worker.consumer._buffer else neighbour).consumer.stop()
            async with locked(environment["DATABASE_URL"], "products"):
                batch = asyncio.create_task(worker.run_once())
                taking_over = asyncio.create_task(neighbour.run_once())
                await eventually(lambda: worker.consumer._buffered_orders + neighbour.consumer._buffered_orders == 0)
                proxy.cut()
            await asyncio.wait({batch, taking_over}, return_when=asyncio.FIRST_COMPLETED)
            await worker.consumer.stop()
            await neighbour.consumer.stop()
            await asyncio.wait({batch, taking_over})
    async with product_consumer(environment) as worker:
        await worker.consumer.stop()
        await worker.run_once()
    outcomes = await verdicts(connection)
    assert outcomes.keys() == {it.id for it in orders}
    assert list(outcomes.values()).count(None) == 2


async def test_p3_two_consumers_sell_what_there_is_and_every_order_gets_one_verdict(
    environment: dict[str, str], connection: Connection
) -> None:
    """Three times the stock is ordered, with products in both orders, and half of it is delivered twice."""
    products = [new_product_id() for _ in range(10)]
    for product_id in products:
        await add_product(connection, product_id, 20)
    orders = [order(product_id, at_ms=at) for at in range(60) for product_id in products]
    messages = [orders[at : at + 20][:: 1 if at % 40 else -1] for at in range(0, 600, 20)]
    await create(environment, *messages, *messages[::-2])
    async with (
        product_consumer(environment, prefetch=8, batch_max_deliveries=4) as here,
        product_consumer(environment, prefetch=8, batch_max_deliveries=4) as there,
    ):
        await asyncio.gather(buffered(here, 8), buffered(there, 8))
        draining = [asyncio.create_task(it.run_all()) for it in (here, there)]
        await eventually(lambda: _all_decided(connection, 600))
        await eventually(lambda: _is_drained(environment, here, there))
        for it in (here, there):
            await it.consumer.stop()
        await asyncio.gather(*draining)
    outcomes = await verdicts(connection)
    assert outcomes.keys() == {it.id for it in orders}
    assert list(outcomes.values()).count(None) == 200
    assert {row["qty"] for row in await connection.fetch("SELECT qty FROM products")} == {0}
    assert await unsettled(environment["AMQP_URL"], CREATED) == 0


async def _all_decided(connection: Connection, count: int) -> bool:
    decided: int = await connection.fetchval("SELECT count(*) FROM stock_ledger")
    return decided == count


async def _is_drained(environment: dict[str, str], *workers: Worker) -> bool:
    waiting = await unsettled(environment["AMQP_URL"], CREATED)
    return waiting == 0 and not any(it.consumer._buffer for it in workers)


# ── P10 and passing faults


async def test_p10_poison_is_parked_and_the_rest_decided(environment: dict[str, str], connection: Connection) -> None:
    await add_product(connection, A, 5)
    good, nothing, too_many, unread = order(A), order(A, 0), order(A, 2**31), order(A)
    broken = b'{"id":"' + unread.id.encode() + b'"}'
    noise, unknown = b"\x00 no JSON", body_of(order(A))
    await create_raw(environment, noise)
    await create_raw(environment, unknown, schema=SCHEMAS[-1] + 1)
    await create_raw(environment, join_orders([*map(encode_order, (nothing, good, too_many)), broken]))
    async with product_consumer(environment) as worker:
        await buffered(worker, 3)
        assert await worker.run_once() == 3
    assert await verdicts(connection) == {good.id: None}
    assert await dead_letters(connection) == [
        DeadRow(None, "stock", Reason.UNREADABLE, noise),
        DeadRow(None, "stock", Reason.UNKNOWN_SCHEMA, unknown),
        DeadRow(unread.id, "stock", Reason.UNREADABLE, b"[" + broken + b"]"),
        DeadRow(nothing.id, "stock", Reason.INVALID_DATA, body_of(nothing)),
        DeadRow(too_many.id, "stock", Reason.INVALID_DATA, body_of(too_many)),
    ]
    assert await unsettled(environment["AMQP_URL"], CREATED) == 0


async def test_p1_a_batch_that_is_held_is_not_acknowledged(
    environment: dict[str, str], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_product(connection, A, 5)
    await create(environment, [order(A)])
    wait_20_ms_for_locks(monkeypatch)
    async with product_consumer(environment) as worker, locked(environment["DATABASE_URL"], "products"):
        batch = asyncio.create_task(worker.run_once())
        await eventually(lambda: "55P03" in str(worker.database._health.summary()))
        batch.cancel()
        await asyncio.wait({batch})
    await gets_back(environment["AMQP_URL"], CREATED, 1)
    async with product_consumer(environment) as worker:
        assert await worker.run_once() == 1
    assert await qty_of(connection, A) == 4
