"""The transactions that cancel orders. After every test the books must be right (P3)."""

import asyncio

import pytest

from database.connection import Connection
from database.dead_letters import DeadLetter, park
from database.faults import Fault, fault_of
from persist_worker.write import prepare, write
from pipeline.contract.orders import Order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from product_consumer.cancel import Cancelled
from product_consumer.ledger import record
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.cancelling import by, cancel_now, cancellation, outcomes, returns_of, verdict_of
from tests.support.services.workers import add_product, connected, qty_of
from tests.support.time.conditions import eventually

A, B, UNKNOWN = sorted(new_product_id() for _ in range(3))
_WAITS_FOR_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)

_COPY_OF_A_CANCELLATION = """
    INSERT INTO cancellations SELECT order_id, 'x', true, NULL, now(), now(), 'returned', now() FROM cancellations
    WHERE order_id = $2 AND $1 <> $2
"""


@pytest.fixture(autouse=True)
async def stored(connection: Connection) -> None:
    await prepare(connection)
    await add_product(connection, A, 10)
    await add_product(connection, B, 0)


async def store(connection: Connection, *orders: Order) -> None:
    await write(connection, list(orders), [])


async def decide(connection: Connection, *orders: Order) -> None:
    await record(connection, list(orders), [])


# ── before and after the verdict


async def test_p4_an_order_that_is_not_decided_yet_is_cancelled_and_takes_no_stock(connection: Connection) -> None:
    await store(connection, it := order(A, 3))
    await cancel_now(connection, cancellation(it))
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("CANCELLED", ["before_verdict"])
    await decide(connection, it)
    assert (await verdict_of(connection, it), await qty_of(connection, A)) == ("CANCELLED", 10)


async def test_p3_the_stock_of_a_processed_order_comes_back_once(connection: Connection) -> None:
    await store(connection, it := order(A, 3))
    await decide(connection, it)
    cancelled = await cancel_now(connection, cancellation(it, reason="too big"))
    assert [(product.id, product.qty) for product in cancelled.products] == [(A, 10)]
    assert cancelled.restocked == frozenset(), "it was not sold out"
    again = await cancel_now(connection, cancellation(it))
    assert again == Cancelled([], cancelled.products, frozenset({A})), "nobody knows whether it was sold out"
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("PROCESSED", ["returned"])
    assert (await returns_of(connection, it), await qty_of(connection, A)) == ([(A, 3)], 10)


async def test_a_failed_order_stays_failed_and_its_cancellation_is_too_late(connection: Connection) -> None:
    await store(connection, it := order(B, 3))
    await decide(connection, it)
    assert (await cancel_now(connection, cancellation(it))).restocked == frozenset()
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("FAILED", ["too_late"])


async def test_an_order_of_an_unknown_product_is_cancelled_as_well(connection: Connection) -> None:
    await store(connection, it := order(UNKNOWN))
    await cancel_now(connection, cancellation(it))
    assert await verdict_of(connection, it) == "CANCELLED"


async def test_the_units_of_a_deleted_product_come_back_too(connection: Connection) -> None:
    await store(connection, it := order(A, 3))
    await decide(connection, it)
    await connection.execute("UPDATE products SET deleted_at = now() WHERE id = $1", A)
    (product,) = (await cancel_now(connection, cancellation(it))).products
    assert (product.qty, product.deleted) == (10, True)


async def test_many_orders_of_one_product_come_back_in_one_row_update(connection: Connection) -> None:
    orders = [order(A, 2) for _ in range(4)]
    await store(connection, *orders)
    await decide(connection, *orders)
    (product,) = (await cancel_now(connection, *map(cancellation, orders))).products
    assert (product.version, product.qty) == (3, 10)


# ── a cancellation that overtakes its order


async def test_p4_a_cancellation_that_overtakes_its_order_waits_for_it(connection: Connection) -> None:
    it, other = order(A, 3), order(A, 10)
    assert await cancel_now(connection, cancellation(it)) == Cancelled()
    assert await outcomes(connection, it) == [None]
    await store(connection, it, other)
    await decide(connection, it, other)
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("CANCELLED", ["before_verdict"])
    assert await verdict_of(connection, other) == "PROCESSED", "the stock goes to the next in line"


async def test_a_cancellation_that_overtook_its_order_is_settled_by_its_redelivery_too(connection: Connection) -> None:
    """Its consumer died before the ack, and meanwhile the order was stored."""
    await cancel_now(connection, cancellation(it := order(A, 3)))
    await store(connection, it)
    await cancel_now(connection, cancellation(it))
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("CANCELLED", ["before_verdict"])


# ── who may


async def test_another_clients_cancellation_changes_nothing_and_takes_no_owners_place(connection: Connection) -> None:
    it = order(A, 3, client="shop")
    await cancel_now(connection, by("stranger", it))
    await store(connection, it)
    await decide(connection, it)
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("PROCESSED", ["not_yours"])
    await cancel_now(connection, by("shop", it))
    assert (await outcomes(connection, it), await qty_of(connection, A)) == (["not_yours", "returned"], 10)


async def test_of_an_owner_and_a_stranger_that_both_wait_the_owner_cancels(connection: Connection) -> None:
    it = order(A, 3, client="shop")
    await cancel_now(connection, by("stranger", it), by("shop", it))
    await store(connection, it)
    await decide(connection, it)
    assert await verdict_of(connection, it) == "CANCELLED"
    assert await outcomes(connection, it) == ["not_yours", "before_verdict"]


async def test_an_order_of_nobody_is_cancelled_only_by_those_who_see_all(connection: Connection) -> None:
    await store(connection, it := order(A, 3))
    await cancel_now(connection, by("shop", it), by("operator", it, sees_all=True))
    assert await outcomes(connection, it) == ["not_yours", "before_verdict"]


async def test_of_two_that_may_the_older_cancels_and_the_other_comes_too_late(connection: Connection) -> None:
    it = order(A, 3, client="shop")
    await store(connection, it)
    await decide(connection, it)
    await cancel_now(connection, by("shop", it), by("operator", it, sees_all=True))
    assert (await outcomes(connection, it), await returns_of(connection, it)) == (["returned", "too_late"], [(A, 3)])


# ── two at once


async def test_p3_a_verdict_that_is_under_way_is_waited_for_and_its_stock_comes_back(
    connection: Connection, database_url: str
) -> None:
    await store(connection, it := order(A, 3))
    async with connected(database_url) as other:
        async with connection.transaction():
            await decide(connection, it)
            cancelling = asyncio.create_task(cancel_now(other, cancellation(it)))
            await eventually(lambda: _is_waiting(connection))
        await cancelling
    assert (await outcomes(connection, it), await qty_of(connection, A)) == (["returned"], 10)


async def test_p4_a_verdict_waits_for_a_cancellation_that_is_under_way(
    connection: Connection, database_url: str
) -> None:
    await store(connection, it := order(A, 3))
    async with connected(database_url) as other:
        async with connection.transaction():
            await cancel_now(connection, cancellation(it))
            deciding = asyncio.create_task(decide(other, it))
            await eventually(lambda: _is_waiting(connection))
        await deciding
    assert (await verdict_of(connection, it), await qty_of(connection, A)) == ("CANCELLED", 10)


async def test_without_a_product_to_lock_the_ledgers_key_decides(connection: Connection, database_url: str) -> None:
    await store(connection, it := order(UNKNOWN))
    async with connected(database_url) as other:
        async with connection.transaction():
            await decide(connection, it)
            cancelling = asyncio.create_task(cancel_now(other, cancellation(it)))
            await eventually(lambda: _is_waiting(connection))
        await cancelling
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("FAILED", ["too_late"])


async def test_without_a_product_to_lock_a_verdict_that_comes_second_is_tried_again(
    connection: Connection, database_url: str
) -> None:
    await store(connection, it := order(UNKNOWN))
    async with connected(database_url) as other:
        async with connection.transaction():
            await cancel_now(connection, cancellation(it))
            deciding = asyncio.create_task(decide(other, it))
            await eventually(lambda: _is_waiting(connection))
        with pytest.raises(Exception, match="stock_ledger_pkey") as refused:
            await deciding
    assert fault_of(refused.value) is Fault.DUPLICATE, "Database.until_it_works tries such a batch again"
    await decide(connection, it)
    assert await verdict_of(connection, it) == "CANCELLED"


async def _is_waiting(connection: Connection) -> bool:
    return bool(await connection.fetchval(_WAITS_FOR_LOCK))


# ── dead letters


async def test_an_order_that_the_stock_stage_has_parked_is_cancelled_and_its_replay_finds_it_decided(
    connection: Connection,
) -> None:
    await store(connection, it := order(A, 3))
    await park(connection, Stage.STOCK, [DeadLetter.of_order(it, Reason.DELIVERY_LIMIT, "")])
    await cancel_now(connection, cancellation(it))
    await decide(connection, it)
    assert (await verdict_of(connection, it), await qty_of(connection, A)) == ("CANCELLED", 10)


async def test_the_replay_of_an_order_that_could_not_be_stored_is_cancelled(connection: Connection) -> None:
    await park(connection, Stage.PERSIST, [DeadLetter.of_order(it := order(A, 3), Reason.INVALID_DATA, "")])
    await cancel_now(connection, cancellation(it))
    await store(connection, it)
    await decide(connection, it)
    assert await outcomes(connection, it) == ["before_verdict"]


# ── the last word is in the database


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (
            "INSERT INTO stock_adjustments (product_id, delta, reason, order_id) VALUES ($1, 3, 'cancellation', $2)",
            "stock_adjustments_of_cancelled",
        ),
        (
            "INSERT INTO stock_adjustments (product_id, delta, reason) SELECT $1, 3, 'cancellation' WHERE $2 <> $1",
            "stock_adjustments_of_order",
        ),
        (
            _COPY_OF_A_CANCELLATION,
            "cancellations_effective",
        ),
    ],
)
async def test_p3_no_order_gives_its_stock_back_twice_whoever_writes(
    connection: Connection, statement: str, constraint: str
) -> None:
    await store(connection, it := order(A, 3))
    await decide(connection, it)
    await cancel_now(connection, cancellation(it))
    with pytest.raises(Exception, match=constraint):
        await connection.execute(statement.replace("$1", "$1::uuid").replace("$2", "$2::uuid"), A, it.id)


async def test_two_consumers_with_the_same_cancellations_do_not_deadlock(
    connection: Connection, database_url: str
) -> None:
    """A client sends its cancellations again, in another order, and the second message comes to the other consumer."""
    async with connected(database_url) as other:
        for _ in range(6):
            wanted = [cancellation(order(A)) for _ in range(500)]
            await asyncio.gather(cancel_now(connection, *wanted), cancel_now(other, *reversed(wanted)))
