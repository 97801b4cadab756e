"""The audit finds orders without a verdict, with two, and with one that is not theirs."""

import re
from collections.abc import AsyncIterator

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.orders import Order
from proof.offenders import (
    DECIDED_TWICE,
    NO_VERDICT,
    REPLAY_LOST,
    STOCK,
    STORED_TWICE,
    TWO_VERDICTS,
    VERDICT_DIFFERS,
    VERDICT_WITHOUT_ORDER,
    Offender,
)
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.audited import age, audited, offenders
from tests.support.services.workers import add_product, connected, park, settle

A, B, UNHEARD_OF = (new_product_id() for _ in range(3))


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        for product_id, qty in ((A, 10), (B, 5)):
            await add_product(it, product_id, qty)
        yield it


@pytest.fixture
async def orders(connection: Connection) -> list[Order]:
    """Eight orders, decided two minutes ago: five of A, all PROCESSED, and three of B, the last of them FAILED."""
    them = [order(A, 2, at_ms=at) for at in range(5)] + [order(B, 2, at_ms=at) for at in range(3)]
    await settle(connection, them)
    await age(connection)
    return them


# ── an order without a verdict


@pytest.fixture
async def undecided(connection: Connection, orders: list[Order]) -> Order:
    """An order that was stored two minutes ago, and nothing else."""
    it = order(A)
    await write(connection, [it], [])
    await age(connection)
    return it


async def test_an_order_without_a_verdict_is_found_once_it_is_older_than_the_lag(
    connection: Connection, undecided: Order
) -> None:
    young = order(A)
    await write(connection, [young], [])
    found, counts = await audited(connection)
    assert [(it.check, it.id, it.expected) for it in found] == [(NO_VERDICT, undecided.id, "a verdict within 60 s")]
    assert found[0].found.startswith("none 12")
    assert counts.pending == 2
    assert {it.id for it in (await audited(connection, lag_s=0))[0]} == {undecided.id, young.id}
    assert (await audited(connection, lag_s=600))[0] == []


async def test_the_clock_of_an_order_is_the_databases(connection: Connection, orders: list[Order]) -> None:
    """`accepted_at` is another machine's time, and orders wait in the broker. All of these are from T0."""
    await write(connection, [order(A)], [])
    assert await offenders(connection) == []


async def test_a_dead_letter_of_product_consumer_is_a_verdict(connection: Connection, undecided: Order) -> None:
    await park(connection, undecided, stage="stock")
    found, counts = await audited(connection)
    assert (found, counts.pending, counts.dead_letters) == ([], 0, 1)


async def test_a_dead_letter_of_persist_worker_is_no_verdict_of_an_order_that_is_stored(
    connection: Connection, undecided: Order
) -> None:
    await park(connection, undecided, stage="persist")
    assert await offenders(connection) == [(NO_VERDICT, undecided.id)]


async def test_a_dead_letter_of_an_order_that_is_not_stored_is_its_verdict(
    connection: Connection, orders: list[Order]
) -> None:
    await park(connection, order(A), stage="persist")
    found, counts = await audited(connection)
    assert (found, counts.pending, counts.dead_letters) == ([], 0, 1)


async def test_a_replayed_order_has_the_lag_again(connection: Connection, undecided: Order) -> None:
    await park(connection, undecided, stage="stock", replayed=True)
    found, counts = await audited(connection)
    assert (found, counts.pending, counts.dead_letters) == ([], 1, 0)
    await age(connection)
    assert await offenders(connection) == [(NO_VERDICT, undecided.id)]


# ── two verdicts


@pytest.mark.parametrize("stage", ["persist", "stock"])
async def test_an_order_that_is_decided_and_parked_has_two_verdicts(
    connection: Connection, orders: list[Order], stage: str
) -> None:
    await park(connection, orders[0], stage=stage)
    found, _ = await audited(connection)
    assert found == [Offender(TWO_VERDICTS, orders[0].id, "one verdict", f"PROCESSED, and a dead letter ({stage})")]


async def test_a_refusal_and_a_dead_letter_are_two_verdicts_too(connection: Connection, orders: list[Order]) -> None:
    await park(connection, orders[7], stage="stock")
    await park(connection, orders[7], stage="persist")
    found, _ = await audited(connection)
    assert found == [Offender(TWO_VERDICTS, orders[7].id, "one verdict", "FAILED, and a dead letter (persist, stock)")]


async def test_a_verdict_younger_than_the_lag_is_that_of_a_replay_not_marked_yet(
    connection: Connection, orders: list[Order]
) -> None:
    fresh = order(B, 1)
    await park(connection, fresh, stage="stock")
    await settle(connection, [fresh])
    assert await offenders(connection) == []
    await age(connection)
    assert await offenders(connection) == [(TWO_VERDICTS, fresh.id)]


async def test_a_dead_letter_that_was_replayed_is_no_verdict(connection: Connection, orders: list[Order]) -> None:
    await park(connection, orders[0], stage="stock", replayed=True)
    assert await offenders(connection) == []


async def test_p1_an_order_that_was_lost_after_its_replay_is_found(connection: Connection, orders: list[Order]) -> None:
    """Its letter is marked as replayed, so no replay sends it again, and no other table has it."""
    gone, back, again = order(A, 1), order(A, 1), order(A, 1)
    for it in (gone, back, again, again):
        await park(connection, it, replayed=True)
    assert await offenders(connection) == []
    await age(connection)
    await settle(connection, [back])
    await park(connection, again)
    await age(connection)
    (found,), _ = await audited(connection)
    letter = await connection.fetchval("SELECT id FROM dead_letters WHERE order_id = $1", gone.id)
    assert (found.check, found.id, found.expected) == (REPLAY_LOST, gone.id, "within 60 s, stored, or parked again")
    assert re.fullmatch(rf"neither, 24\d s after dead letter {letter} was replayed", found.found)


async def test_what_was_parked_for_its_id_is_another_order(connection: Connection, orders: list[Order]) -> None:
    await park(connection, orders[0], stage="persist", reason="id_conflict")
    found, counts = await audited(connection)
    assert (found, counts.dead_letters) == ([], 1)


# ── a verdict that is not the order's


@pytest.mark.parametrize("index", [0, 7], ids=["PROCESSED", "FAILED"])
async def test_a_verdict_without_its_order_is_found(connection: Connection, orders: list[Order], index: int) -> None:
    lost = orders[index]
    await connection.execute("DELETE FROM orders WHERE id = $1", lost.id)
    found, counts = await audited(connection)
    outcome = "FAILED" if index == 7 else "PROCESSED"
    what = f"none; {outcome}, 2 of product {lost.product_id}"
    assert found == [Offender(VERDICT_WITHOUT_ORDER, lost.id, "a row in orders", what)]
    assert counts.pending == 0


@pytest.mark.parametrize("table", ["orders", "stock_ledger"])
@pytest.mark.parametrize("column", ["quantity", "product_id"])
async def test_a_verdict_on_something_else_is_found(
    connection: Connection, orders: list[Order], table: str, column: str
) -> None:
    """A FAILED order, so that the stock check misses it."""
    key = "id" if table == "orders" else "order_id"
    change = f"product_id = '{A}'" if column == "product_id" else "quantity = 1"
    if (table, column) == ("orders", "quantity"):
        change += ", total_price = unit_price"
    await connection.execute(f"UPDATE {table} SET {change} WHERE {key} = $1", orders[7].id)
    (found,), _ = await audited(connection)
    right, wrong = f"2 of product {B}", f"2 of product {A}" if column == "product_id" else f"1 of product {B}"
    expected, is_there = (wrong, right) if table == "orders" else (right, wrong)
    assert found == Offender(VERDICT_DIFFERS, orders[7].id, expected, is_there)


@pytest.mark.parametrize(("table", "check"), [("orders", STORED_TWICE), ("stock_ledger", DECIDED_TWICE)])
async def test_two_rows_for_one_order_are_found(
    connection: Connection, orders: list[Order], table: str, check: str
) -> None:
    """The primary key forbids two rows, so it is removed. A FAILED order, so that the stock check misses it."""
    await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
    key = "id" if table == "orders" else "order_id"
    await connection.execute(f"INSERT INTO {table} SELECT * FROM {table} WHERE {key} = $1", orders[7].id)
    assert (await audited(connection))[0] == [Offender(check, orders[7].id, "1 row", "2 rows")]


# ── stock


@pytest.mark.parametrize(
    ("statement", "expected", "found"),
    [
        ("UPDATE products SET qty = 2 WHERE id = '{B}'", "qty 1 = 5 adjusted - 4 processed", "qty 2"),
        ("UPDATE products SET qty = 0 WHERE id = '{B}'", "qty 1 = 5 adjusted - 4 processed", "qty 0"),
        (
            "INSERT INTO stock_adjustments (product_id, delta, reason) VALUES ('{B}', 3, 'restock')",
            "qty 4 = 8 adjusted - 4 processed",
            "qty 1",
        ),
        (
            "DELETE FROM stock_adjustments WHERE product_id = '{B}'",
            "qty -4 = 0 adjusted - 4 processed, and never below 0",
            "qty 1",
        ),
        (
            "UPDATE stock_ledger SET outcome = 'PROCESSED', reason = NULL, units_left = NULL WHERE outcome = 'FAILED'",
            "qty -1 = 5 adjusted - 6 processed, and never below 0",
            "qty 1",
        ),
        (
            """
            ALTER TABLE products DROP CONSTRAINT products_qty_check;
            INSERT INTO stock_adjustments (product_id, delta, reason) VALUES ('{B}', -3, 'correction');
            UPDATE products SET qty = -2 WHERE id = '{B}'
            """,
            "qty -2 = 2 adjusted - 4 processed, and never below 0",
            "qty -2",
        ),
        (
            "DELETE FROM stock_adjustments WHERE product_id = '{B}'; DELETE FROM products WHERE id = '{B}'",
            "qty -4 = 0 adjusted - 4 processed, and never below 0",
            "no such product",
        ),
    ],
    ids=["too much", "too little", "restock", "no creation", "oversold", "negative", "gone"],
)
async def test_stock_that_does_not_add_up_is_found(
    connection: Connection, orders: list[Order], statement: str, expected: str, found: str
) -> None:
    await connection.execute(statement.format(B=B))
    assert (await audited(connection))[0] == [Offender(STOCK, B, expected, found)]
