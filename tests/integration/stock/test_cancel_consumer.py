"""product_consumer's queue of cancellations on real services: settle and commit, bust, announce, ack."""

import asyncio
import json

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.broker.deliveries import Batch
from pipeline.cache.product_cache import ProductCache
from pipeline.contract import topology
from pipeline.contract.cancellations import encode_cancellation
from pipeline.contract.orders import Order
from product_consumer.ledger import record
from tests.support.brokers.broker import unsettled
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import basket, new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.audited import audited
from tests.support.scenes.cancelling import (
    cancellation,
    outcomes,
    request_cancel,
    request_raw,
    returns_of,
    verdict_of,
)
from tests.support.scenes.deciding import heard, product_events
from tests.support.services.workers import (
    DeadRow,
    Worker,
    add_product,
    buffered,
    cancel_consumer,
    dead_letters,
    qty_of,
)

A, B, C = (new_product_id() for _ in range(3))
QUEUE = topology.ORDERS_CANCEL_REQUESTED_QUEUE
_OLD = b'{"qty":"as it was"}'


@pytest.fixture
async def processed(connection: Connection) -> Order:
    """An order that has taken the last units of A."""
    await prepare(connection)
    await add_product(connection, A, 3)
    it = order(A, 3)
    await write(connection, [it], [])
    await record(connection, [it], [])
    return it


async def test_p7_a_returned_order_busts_its_product_and_opens_the_door_of_ingest_api_again(
    environment: dict[str, str], connection: Connection, cache: ProductCache, processed: Order
) -> None:
    await cache.fill(A, 2, _OLD)
    await request_cancel(environment, [cancellation(processed)])
    async with product_events(environment) as events, cancel_consumer(environment) as worker:
        assert await worker.run_once() == 1
        assert [(key, it.id, it.version, it.qty) for key, it in await heard(events)] == [
            (topology.PRODUCT_RESTOCKED, A, 3, 3)
        ]
    assert await cache.read(A) is None
    assert (await outcomes(connection, processed), await qty_of(connection, A)) == (["returned"], 3)
    assert await unsettled(environment["AMQP_URL"], QUEUE) == 0


async def test_the_units_of_a_deleted_product_come_back_and_no_ingest_api_is_told_to_sell_it(
    environment: dict[str, str], connection: Connection, processed: Order
) -> None:
    for product_id in (B, C):
        await add_product(connection, product_id, 1)
    await write(connection, [two := basket((C, 1), (B, 1))], [])
    await record(connection, [two], [])
    await connection.execute("UPDATE products SET deleted_at = now(), version = version + 1 WHERE id <> $1", B)
    await request_cancel(environment, [cancellation(processed), cancellation(two)])
    async with product_events(environment) as events, cancel_consumer(environment) as worker:
        assert await worker.run_once() == 2
        assert [(key, it.id, it.qty) for key, it in await heard(events)] == [(topology.PRODUCT_RESTOCKED, B, 1)]
    assert [await outcomes(connection, it) for it in (processed, two)] == [["returned"], ["returned"]]
    assert [await qty_of(connection, it) for it in (A, B, C)] == [3, 1, 1]
    assert (await audited(connection, lag_s=-1))[0] == []


async def test_an_order_that_somebody_has_deleted_gives_nothing_back_and_stops_no_other_cancellation(
    environment: dict[str, str], connection: Connection, processed: Order
) -> None:
    await add_product(connection, B, 1)
    await write(connection, [other := order(B, 1)], [])
    await record(connection, [other], [])
    await connection.execute("DELETE FROM orders WHERE id = $1", processed.id)
    await request_cancel(environment, [cancellation(processed), cancellation(other)])
    async with cancel_consumer(environment) as worker:
        assert await worker.run_once() == 2
    assert [await outcomes(connection, it) for it in (processed, other)] == [["too_late"], ["returned"]]
    assert (await qty_of(connection, A), await qty_of(connection, B)) == (0, 1)


@pytest.mark.parametrize("step", ["until_it_works", "bust_or_defer", "notify", "_announce", "settle"])
async def test_p1_a_consumer_that_dies_at_any_step_is_made_up_for_by_the_next(
    environment: dict[str, str], connection: Connection, cache: ProductCache, processed: Order, step: str
) -> None:
    await cache.fill(A, 2, _OLD)
    waits, undecided = order(A), order(B)
    await write(connection, [undecided], [])
    await request_cancel(environment, [cancellation(it) for it in (processed, waits, undecided)])
    async with cancel_consumer(environment) as worker:
        await worker.die_before(_owner_of(worker, step), step)
    async with product_events(environment) as events, cancel_consumer(environment) as worker:
        assert await worker.run_once() == 3
        assert [key for key, _ in await heard(events)] == [topology.PRODUCT_RESTOCKED]
    assert await cache.read(A) is None
    assert (await returns_of(connection, processed), await qty_of(connection, A)) == ([(A, 3)], 3)
    assert [await outcomes(connection, it) for it in (processed, waits, undecided)] == [
        ["returned"],
        [None],
        ["before_verdict"],
    ]
    assert await verdict_of(connection, undecided) == "CANCELLED"
    assert await unsettled(environment["AMQP_URL"], QUEUE) == 0


def _owner_of(worker: Worker, step: str) -> object:
    service = worker.service
    owners = {"bust_or_defer": service._cache, "_announce": service, "settle": worker.consumer}
    return owners.get(step, worker.database)


async def test_p2_a_batch_that_outlives_its_channel_gives_stock_back_once(
    environment: dict[str, str], connection: Connection, processed: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    await request_cancel(environment, [cancellation(processed)])
    async with proxy_to(environment["AMQP_URL"]) as proxy:
        far = {**environment, "AMQP_URL": proxy.url(environment["AMQP_URL"])}
        async with cancel_consumer(far) as worker:
            settle = worker.consumer.settle

            async def settle_without_channel(batch: Batch) -> bool:  # a cut before would take the batch from its worker
                proxy.cut()
                return await settle(batch)

            monkeypatch.setattr(worker.consumer, "settle", settle_without_channel)
            assert await asyncio.wait_for(worker.run_once(), 20) == 1
    async with cancel_consumer(environment) as worker:
        await worker.run_once()
    assert (await returns_of(connection, processed), await qty_of(connection, A)) == ([(A, 3)], 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sees_all": 3},
        {"requested_at": "0001-01-01T00:00:00+14:00"},  # no moment in UTC, so PostgreSQL has none for it
        {"requested_at": "9999-12-31T23:59:59-14:00"},
    ],
)
async def test_p10_a_cancellation_that_cannot_be_read_costs_only_itself_and_names_no_order(
    environment: dict[str, str], connection: Connection, processed: Order, wrong: dict[str, object]
) -> None:
    good = encode_cancellation(cancellation(processed))
    bad = json.dumps(json.loads(good) | wrong).encode()
    await request_raw(environment, b"[" + bad + b"," + good + b"]")
    await request_raw(environment, b"no JSON")
    await request_raw(environment, b"[]", schema=99)
    parked = sample("headrace_orders_parked_total", stage="cancel", reason="unreadable")
    returned = sample("headrace_cancellations_total", outcome="returned")
    async with grown(parked, returned) as growth, cancel_consumer(environment) as worker:
        await buffered(worker, 3)
        assert await worker.run_once() == 1
        assert growth() == [2, 1]
    assert await dead_letters(connection) == [
        DeadRow(None, "cancel", "unreadable", b"[" + bad + b"]"),
        DeadRow(None, "cancel", "unreadable", b"no JSON"),
        DeadRow(None, "cancel", "unknown_schema", b"[]"),
    ]
    assert await outcomes(connection, processed) == ["returned"]
