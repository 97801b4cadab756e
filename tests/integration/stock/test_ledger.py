"""The transaction that moves stock. After every test the books must be right (P3)."""

import asyncio
import random
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest

from database.connection import Connection, Database
from database.dead_letters import DeadLetter, park
from database.faults import Fault, fault_of
from pipeline.contract.orders import Order
from pipeline.contract.product_events import ProductEvent
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from pipeline.process.health import Health
from product_consumer.ledger import Recorded, fault_in, record, sort_out
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.services.workers import (
    DeadRow,
    add_product,
    connected,
    dead_letters,
    locked,
    qty_of,
    unprepared,
    verdicts,
)
from tests.support.time.conditions import eventually

A, B, UNKNOWN = sorted(new_product_id() for _ in range(3))


def database_of(url: str) -> Database:
    return Database(url, Health("ledger", "database"), unprepared)


def recording(database: Database, orders: list[Order], dead: Sequence[DeadLetter] = ()) -> "asyncio.Task[Recorded]":
    return asyncio.create_task(database.until_it_works(lambda it: record(it, orders, list(dead)), "queue"))


def reasons(recorded: Recorded) -> dict[str, str | None]:
    return {it.order_id: it.reason for it in recorded.verdicts}


# ── deciding


async def test_stock_is_taken_and_the_product_comes_back_as_it_is_now(connection: Connection) -> None:
    await add_product(connection, A, 10, price="1500.00")
    first, second = order(A, 3), order(A, 4)
    recorded = await record(connection, [first, second], [])
    assert reasons(recorded) == {first.id: None, second.id: None}
    assert recorded.products == [ProductEvent(A, 2, Decimal("1500.00"), 3)]
    assert await verdicts(connection) == reasons(recorded)
    assert await qty_of(connection, A) == 3


async def test_a_thousand_orders_for_one_product_are_one_row_update(connection: Connection) -> None:
    await add_product(connection, A, 1500)
    recorded = await record(connection, [order(A) for _ in range(1000)], [])
    assert [(it.version, it.qty) for it in recorded.products] == [(2, 500)]


async def test_p4_every_refusal_has_its_reason(connection: Connection) -> None:
    await add_product(connection, A, 5)
    await add_product(connection, B, 5)
    await connection.execute("UPDATE products SET deleted_at = now(), version = 2 WHERE id = $1", B)
    big, small, deleted, unknown = order(A, 6, at_ms=0), order(A, 5, at_ms=1), order(B), order(UNKNOWN)
    recorded = await record(connection, [unknown, deleted, small, big], [])
    expected = {
        big.id: Reason.OUT_OF_STOCK,
        small.id: None,
        deleted.id: Reason.PRODUCT_DELETED,
        unknown.id: Reason.UNKNOWN_PRODUCT,
    }
    assert reasons(recorded) == await verdicts(connection) == expected
    assert [(it.id, it.version, it.qty, it.deleted) for it in recorded.products] == [(A, 2, 0, False), (B, 2, 5, True)]


async def test_what_takes_nothing_changes_no_product(connection: Connection) -> None:
    await add_product(connection, A, 0)
    before = await connection.fetch("SELECT * FROM products")
    recorded = await record(connection, [order(A) for _ in range(3)], [])
    assert await connection.fetch("SELECT * FROM products") == before
    assert [(it.version, it.qty) for it in recorded.products] == [(1, 0)]


async def test_a_batch_of_nothing_records_nothing(connection: Connection) -> None:
    assert await record(connection, [], []) == Recorded()


# ── P2: redelivery


async def test_p2_a_whole_batch_again_decides_nothing_and_tells_the_products_once_more(connection: Connection) -> None:
    """Whoever decided it may have died before it busted the cache."""
    await add_product(connection, A, 10)
    await add_product(connection, B, 0)
    orders = [order(A, 4), order(A, 4), order(A, 4), order(B), order(UNKNOWN)]
    first = await record(connection, orders, [])
    before = await connection.fetch("SELECT * FROM stock_ledger ORDER BY order_id")
    again = await record(connection, orders[::-1], [])
    assert again == Recorded([], first.products, duplicates=5)
    assert await connection.fetch("SELECT * FROM stock_ledger ORDER BY order_id") == before


async def test_p2_what_is_new_in_a_batch_is_decided_and_what_is_not_stays(connection: Connection) -> None:
    await add_product(connection, A, 10)
    old = [order(A, 3), order(A, 8)]
    await record(connection, old, [])
    new = order(A, 7)
    recorded = await record(connection, [*old, new], [])
    assert (reasons(recorded), recorded.duplicates) == ({new.id: None}, 2)
    assert await verdicts(connection) == {old[0].id: None, old[1].id: Reason.OUT_OF_STOCK, new.id: None}


async def test_p2_a_verdict_stays_although_stock_came_later(connection: Connection) -> None:
    await add_product(connection, A, 0)
    it = order(A)
    await record(connection, [it], [])
    await restock(connection, 5)
    assert (await record(connection, [it], [])).verdicts == []
    assert await verdicts(connection) == {it.id: Reason.OUT_OF_STOCK}


async def restock(connection: Connection, delta: int) -> None:
    """As product_api does it."""
    async with connection.transaction():
        await connection.execute("UPDATE products SET qty = qty + $2, version = version + 1 WHERE id = $1", A, delta)
        await connection.execute(
            "INSERT INTO stock_adjustments (product_id, delta, reason) VALUES ($1, $2, 'restock')", A, delta
        )


# ── two at once


async def test_p3_two_consumers_on_the_same_products_never_wait_in_a_circle(
    connection: Connection, database_url: str
) -> None:
    """The same products in opposite orders: locks that are taken as the orders come would deadlock at once."""
    products = sorted(new_product_id() for _ in range(30))
    for product_id in products:
        await add_product(connection, product_id, 40)
    async with connected(database_url) as neighbour:
        for _ in range(15):
            upwards = [order(product_id, 2, at_ms=at) for at, product_id in enumerate(products)]
            downwards = [order(product_id, 2, at_ms=at) for at, product_id in enumerate(reversed(products))]
            # A deadlock would be raised here: nothing retries.
            await asyncio.gather(record(connection, upwards, []), record(neighbour, downwards, []))
    assert [row["qty"] for row in await connection.fetch("SELECT qty FROM products")] == [0] * 30
    counted = await connection.fetch("SELECT outcome, count(*) FROM stock_ledger GROUP BY outcome")
    assert {row["outcome"]: row["count"] for row in counted} == {"PROCESSED": 600, "FAILED": 300}


async def test_p2_overlapping_batches_at_once_give_each_order_one_verdict(
    connection: Connection, database_url: str
) -> None:
    """As when a channel dies under a batch: what it held goes to a neighbour, in batches cut elsewhere."""
    await add_product(connection, A, 100)
    await add_product(connection, B, 1000)
    async with connected(database_url) as neighbour:
        for _ in range(15):
            orders = [order(random.choice([A, B])) for _ in range(60)]
            here, there = orders[:40], orders[20:]
            random.shuffle(there)
            both = await asyncio.gather(record(connection, here, []), record(neighbour, there, []))
            decided = [it.order_id for recorded in both for it in recorded.verdicts]
            assert sorted(decided) == sorted(it.id for it in orders)
            assert sum(it.duplicates for it in both) == 20
    assert await connection.fetchval("SELECT count(*) FROM stock_ledger") == 900


async def test_p2_the_same_orders_for_an_unknown_product_at_once_are_decided_once(
    connection: Connection, database_url: str
) -> None:
    """There is no product to lock, so the primary key is the last word, and whoever loses tries again."""
    here, there = database_of(database_url), database_of(database_url)
    for _ in range(10):
        orders = [order(UNKNOWN) for _ in range(20)]
        await asyncio.gather(recording(here, orders), recording(there, orders[::-1]))
    assert list((await verdicts(connection)).values()) == [Reason.UNKNOWN_PRODUCT] * 200
    await asyncio.gather(here.close(), there.close())


async def test_p3_three_times_the_stock_wanted_by_two_at_once_sells_the_stock(
    connection: Connection, database_url: str
) -> None:
    await add_product(connection, A, 100)
    async with connected(database_url) as neighbour:
        for _ in range(5):
            await asyncio.gather(
                *(record(it, [order(A) for _ in range(30)], []) for it in (connection, neighbour)),
            )
    outcomes = list((await verdicts(connection)).values())
    assert (outcomes.count(None), outcomes.count(Reason.OUT_OF_STOCK)) == (100, 200)
    assert await qty_of(connection, A) == 0


async def test_p3_a_restock_in_the_middle_is_neither_lost_nor_sold_twice(
    connection: Connection, database_url: str
) -> None:
    await add_product(connection, A, 50)
    async with connected(database_url) as neighbour:
        for _ in range(20):
            await asyncio.gather(record(connection, [order(A, 2) for _ in range(5)], []), restock(neighbour, 5))
    processed = list((await verdicts(connection)).values()).count(None)
    assert await qty_of(connection, A) == 150 - 2 * processed


# ── P10: poison

POISON: dict[str, dict[str, object]] = {
    "no uuid": {"id": "x"},
    "a tab": {"id": "a\tb"},
    "NUL": {"id": "\0"},
    "not the canonical form": {"id": new_product_id().upper()},
    "no uuid of a product": {"product_id": "y"},
    "nothing": {"quantity": 0},
    "less than nothing": {"quantity": -5},
    "more than int4": {"quantity": 2**31},
    "more than int8": {"quantity": 2**64},
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_p10_poison_is_sorted_out(poison: dict[str, object]) -> None:
    before, after = order(A), order(A)
    bad = msgspec.structs.replace(before, **{"id": order(A).id, **poison})
    good, dead = sort_out([before, bad, after])
    assert good == [before, after]
    assert [(it.order_id, it.reason, it.body) for it in dead] == [(bad.id, Reason.INVALID_DATA, body_of(bad))]


async def test_p10_what_postgresql_refuses_is_what_is_sorted_out(connection: Connection) -> None:
    """Were there an order that only one of the two refuses, one would be blamed for nothing, or a batch stuck."""
    await add_product(connection, A, 2**40)
    for poison in POISON.values():
        bad = msgspec.structs.replace(order(A), **poison)
        assert fault_in(bad) is not None
        if poison == POISON["not the canonical form"]:
            continue  # PostgreSQL takes it for what it means; the door has already refused it
        with pytest.raises(Exception) as raised:  # noqa: PT011  (which one it is, is database.faults' to say)
            await record(connection, [bad], [])
        assert fault_of(raised.value) is Fault.DATA
    biggest = order(A, 2**31 - 1)
    assert fault_in(biggest) is None
    assert reasons(await record(connection, [biggest], [])) == {biggest.id: None}


async def test_p10_dead_letters_are_parked_in_the_same_commit(connection: Connection) -> None:
    await add_product(connection, A, 1)
    letters = [DeadLetter(None, Reason.UNREADABLE, "no JSON", b"\xff")]
    await park(connection, Stage.PERSIST, letters)  # the same bytes: another story
    assert (await record(connection, [order(A)], letters)).parked == letters
    assert (await record(connection, [], letters)).parked == []
    assert await dead_letters(connection) == [
        DeadRow(None, "persist", Reason.UNREADABLE, b"\xff"),
        DeadRow(None, "stock", Reason.UNREADABLE, b"\xff"),
    ]
    query = "SELECT stage FROM stock_ledger l, dead_letters d WHERE l.xmin = d.xmin"
    assert await connection.fetchval(query) == "stock"


# ── passing faults


async def test_p2_all_or_nothing_when_the_backend_is_killed_in_the_middle(
    connection: Connection, database_url: str
) -> None:
    """In the middle: the ledger is written and the stock taken, the dead letter waits for a lock."""
    await add_product(connection, A, 5)
    database, orders = database_of(database_url), [order(A, 2) for _ in range(3)]
    async with locked(database_url, "dead_letters"):
        work = recording(database, orders, [DeadLetter(None, Reason.UNREADABLE, "no JSON", b"\xff")])
        for _ in range(3):
            await eventually(
                lambda: connection.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'ledger' AND wait_event_type = 'Lock'"
                )
            )
        assert await verdicts(connection) == {}
        assert await qty_of(connection, A) == 5
    assert list(reasons(await work).values()).count(None) == 2
    assert await qty_of(connection, A) == 1
    assert len(await dead_letters(connection)) == 1
    await database.close()


async def test_p2_a_connection_lost_at_any_moment_decides_nothing_twice(
    connection: Connection, database_url: str
) -> None:
    """Cut after so and so many bytes from the server, which includes a commit whose answer is lost."""
    await add_product(connection, A, 10_000)
    async with proxy_to(database_url) as proxy:
        database = database_of(proxy.url(database_url))
        await recording(database, [order(A)])
        whole = proxy.sent_bytes
        await database.close()
    rounds = range(whole, 0, -37)
    for cut_after in rounds:
        await _records_although_cut(database_url, cut_after)
    assert await qty_of(connection, A) == 10_000 - 1 - 2 * len(rounds)


async def _records_although_cut(database_url: str, cut_after: int) -> None:
    async with proxy_to(database_url) as proxy:
        proxy.cut_after_bytes = cut_after
        database = database_of(proxy.url(database_url))
        work = recording(database, [order(A), order(A)])
        await eventually(lambda: work.done() or proxy.connections > 1)
        proxy.cut_after_bytes = None
        recorded = await work
        assert len(recorded.verdicts) + recorded.duplicates == 2
        await database.close()
