"""The audit's questions to a real database in which one thing at a time is wrong. What it overlooks, nobody sees."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.orders import Order
from product_consumer.ledger import record
from proof import accounting_sql as audit_module
from proof.accounting import Account, Sent, Stock
from proof.accounting_sql import audit, clock_offset_s, drain, undecided
from proof.stock import UNBALANCED, is_balanced
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.accounted import sent
from tests.support.services.workers import add_product, connected, park, settle

A, B, OTHER, UNHEARD_OF = (new_product_id() for _ in range(4))


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A database that was used by somebody else before us."""
    async with connected(database_url) as it:
        await prepare(it)
        for product_id, qty in ((A, 10), (B, 5), (OTHER, 7)):
            await add_product(it, product_id, qty)
        await settle(it, [order(OTHER) for _ in range(3)])
        yield it


async def audited(connection: Connection, what: Sent) -> Account:
    return await audit(connection, what, [A, B])


@pytest.fixture
async def orders(connection: Connection) -> list[Order]:
    """Eight that were sent and decided: five for A, of which all fit, and three for B, of which the last does not."""
    them = [order(A, 2, at_ms=at) for at in range(5)] + [order(B, 2, at_ms=at) for at in range(3)]
    await settle(connection, them)
    return them


# ── all is well


async def test_a_faithful_database_is_clean(connection: Connection, orders: list[Order]) -> None:
    account = await audited(connection, sent(*orders))
    assert account.is_clean
    assert (account.stored, account.processed, account.failed, account.decided) == (8, 7, {"out_of_stock": 1}, 8)
    assert account.unknown_stored == 0


async def test_nothing_sent_is_nothing_found(connection: Connection) -> None:
    account = await audited(connection, Sent())
    assert account.is_clean
    assert (account.stored, account.decided) == (0, 0)
    assert (account.verdicts.p50_ms, account.verdicts.p99_ms, account.verdicts.last_s) == (None, None, None)


async def test_more_rows_than_one_fetch_are_all_seen(
    connection: Connection, orders: list[Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proof.accounting_sql._FETCH_ROWS", 3)
    assert (await audited(connection, sent(*orders))).is_clean
    assert await undecided(connection, [it.id for it in orders]) == []


async def test_a_parked_order_is_decided_and_a_replayed_one_has_to_be_in_the_tables(
    connection: Connection, orders: list[Order]
) -> None:
    parked, replayed = order(A), order(A)
    await park(connection, parked)
    await park(connection, replayed, replayed=True)
    account = await audited(connection, sent(*orders, parked, replayed))
    assert account.failed == {"out_of_stock": 1, "dead_letter": 1}
    assert list(account.lost) == [replayed.id]


async def test_a_request_of_unknown_outcome_may_be_stored(connection: Connection, orders: list[Order]) -> None:
    account = await audited(connection, sent(*orders[1:], unknown=(orders[0], order(A, 1))))
    assert account.is_clean
    assert account.unknown_stored == 1


async def test_the_times_are_the_databases_own(connection: Connection, orders: list[Order]) -> None:
    await connection.execute(
        "UPDATE stock_ledger SET decided_at = accepted_at + interval '250 ms' FROM orders WHERE id = order_id"
    )
    await connection.execute(
        "UPDATE stock_ledger SET decided_at = accepted_at + interval '2 s' FROM orders WHERE id = order_id AND id = $1",
        orders[-1].id,
    )
    verdicts = (await audited(connection, sent(*orders))).verdicts
    assert verdicts.p50_ms == pytest.approx(250)
    assert verdicts.p99_ms == pytest.approx(250 + 0.93 * 1750)
    assert verdicts.last_s == pytest.approx(orders[-1].created_at.timestamp() + 2, abs=0.001)


async def test_the_clocks_are_compared_within_a_round_trip(connection: Connection) -> None:
    began_s = time.perf_counter()
    offset_s = await clock_offset_s(connection)
    before_s = time.perf_counter()
    there_s = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))
    after_s, error_s = time.perf_counter(), before_s - began_s + 0.01
    assert before_s - error_s <= there_s - offset_s <= after_s + error_s


async def test_what_is_committed_meanwhile_is_not_half_seen(
    connection: Connection, orders: list[Order], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = order(B)

    async def cross_off_and_work(*args: object) -> None:
        await cross_off(*args)  # type: ignore[arg-type]
        async with connected(database_url) as worker:
            await prepare(worker)
            await settle(worker, [late])

    cross_off = audit_module._cross_off
    monkeypatch.setattr(audit_module, "_cross_off", cross_off_and_work)
    assert (await audited(connection, sent(*orders))).is_clean
    monkeypatch.undo()
    assert (await audited(connection, sent(*orders, late))).is_clean


# ── one thing is wrong


async def test_an_order_that_is_not_stored_is_lost(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("DELETE FROM orders WHERE id = $1", orders[7].id)
    account = await audited(connection, sent(*orders))
    assert (account.lost, account.stored) == ({orders[7].id: "not stored"}, 7)


async def test_an_order_without_a_verdict_is_lost(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("DELETE FROM stock_ledger WHERE order_id = $1", orders[7].id)
    account = await audited(connection, sent(*orders))
    assert (account.lost, account.decided) == ({orders[7].id: "no verdict"}, 7)


async def test_an_order_that_is_nowhere_is_lost_once(connection: Connection, orders: list[Order]) -> None:
    assert (await audited(connection, sent(*orders, order(A)))).lost_count == 1


@pytest.mark.parametrize("table", ["orders", "stock_ledger"])
@pytest.mark.parametrize("column", ["quantity", "product_id"])
async def test_an_order_that_was_altered_is_lost(
    connection: Connection, orders: list[Order], table: str, column: str
) -> None:
    """Also when it was moved to a product that nobody here asks about."""
    key = "id" if table == "orders" else "order_id"
    change = f"product_id = '{UNHEARD_OF}'" if column == "product_id" else "quantity = 1"
    if (table, column) == ("orders", "quantity"):
        change += ", total_price = unit_price"
    await connection.execute(f"UPDATE {table} SET {change} WHERE {key} = $1", orders[7].id)
    account = await audited(connection, sent(*orders))
    assert list(account.lost) == [orders[7].id]
    assert not account.is_clean


async def test_an_order_that_nobody_sent_is_a_duplicate(connection: Connection, orders: list[Order]) -> None:
    account = await audited(connection, sent(*orders[:-1]))
    assert (account.duplicated, account.lost_count) == (1, 0)


@pytest.mark.parametrize("table", ["orders", "stock_ledger"])
async def test_two_rows_for_one_order_are_a_duplicate(connection: Connection, orders: list[Order], table: str) -> None:
    """Which the primary key forbids: but the audit must not rest on what it audits."""
    await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
    await connection.execute(f"INSERT INTO {table} SELECT * FROM {table} WHERE product_id = $1 LIMIT 1", B)
    assert (await audited(connection, sent(*orders))).duplicated == 1


async def test_an_order_that_is_parked_twice_is_a_duplicate(connection: Connection, orders: list[Order]) -> None:
    parked = order(A)
    await park(connection, parked)
    await park(connection, parked)
    assert (await audited(connection, sent(*orders, parked))).duplicated == 1


async def test_stock_that_was_taken_and_is_nobodys_is_oversold(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("UPDATE products SET qty = qty + 1 WHERE id = $1", B)
    assert (await audited(connection, sent(*orders))).oversold == [Stock(B, 2, 5, 4, 4)]


async def test_an_adjustment_without_its_stock_is_oversold(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("INSERT INTO stock_adjustments (product_id, delta, reason) VALUES ($1, 3, 'restock')", A)
    assert (await audited(connection, sent(*orders))).oversold == [Stock(A, 0, 13, 10, 10)]


async def test_a_verdict_that_took_less_than_was_ordered_is_oversold(
    connection: Connection, orders: list[Order]
) -> None:
    """The ledger and the stock agree with each other, and not with the order."""
    await connection.execute("UPDATE stock_ledger SET quantity = 1 WHERE order_id = $1", orders[0].id)
    await connection.execute("UPDATE products SET qty = qty + 1 WHERE id = $1", A)
    account = await audited(connection, sent(*orders))
    assert account.oversold == [Stock(A, 1, 10, 9, 10)]
    assert list(account.lost) == [orders[0].id]


async def test_stock_below_zero_is_oversold(connection: Connection, orders: list[Order]) -> None:
    """Which a constraint forbids."""
    await connection.execute("ALTER TABLE products DROP CONSTRAINT products_qty_check")
    extra = order(A, 1)
    await write(connection, [extra], [])
    await connection.execute(
        "INSERT INTO stock_ledger (order_id, product_id, quantity, outcome) VALUES ($1, $2, 1, 'PROCESSED')",
        extra.id,
        A,
    )
    await connection.execute("UPDATE products SET qty = -1 WHERE id = $1", A)
    assert (await audited(connection, sent(*orders, extra))).oversold == [Stock(A, -1, 10, 11, 11)]


async def test_p3_the_formula_in_sql_and_in_python_is_one(connection: Connection) -> None:
    query = f"SELECT {UNBALANCED} FROM (SELECT $1::bigint AS qty, $2::bigint AS adjusted, $3::bigint AS processed) b"
    for qty, adjusted, processed in itertools.product((None, -1, 0, 1, 7), (-1, 0, 7, 10), (0, 3, 10, 11)):
        wrong = await connection.fetchval(query, qty, adjusted, processed)
        assert wrong is not is_balanced(qty, adjusted, processed), (qty, adjusted, processed)


async def test_a_product_that_is_gone_is_oversold(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("DELETE FROM stock_adjustments WHERE product_id = $1", B)
    await connection.execute("DELETE FROM products WHERE id = $1", B)
    assert (await audited(connection, sent(*orders))).oversold == [Stock(B, None, 0, 4, 4)]


async def test_the_price_of_what_others_did_is_not_ours(connection: Connection, orders: list[Order]) -> None:
    await settle(connection, [order(OTHER, 3, price="0.01", total_price=Decimal("0.03"))])
    await connection.execute("UPDATE products SET qty = 3 WHERE id = $1", OTHER)
    await park(connection, order(OTHER))
    assert (await audited(connection, sent(*orders))).is_clean


# ── the drain


async def test_the_undecided_are_found_in_their_order(connection: Connection, orders: list[Order]) -> None:
    fresh, parked, replayed = [order(A), order(A)], order(A), order(A)
    await write(connection, fresh, [])
    await park(connection, parked)
    await park(connection, replayed, replayed=True)
    ids = [it.id for it in (fresh[0], *orders, parked, replayed, fresh[1])]
    assert await undecided(connection, ids) == [fresh[0].id, replayed.id, fresh[1].id]


async def test_a_drain_ends_when_all_is_decided(connection: Connection, orders: list[Order], database_url: str) -> None:
    late = [order(A) for _ in range(100)]
    told: list[int] = []

    async def decide_meanwhile(count: int) -> None:
        async with connected(database_url) as worker:
            for at in range(0, 100, count):
                await record(worker, late[at : at + count], [])

    deciding = asyncio.create_task(decide_meanwhile(10))
    ids = [it.id for it in (*orders, *late)]
    assert await drain(connection, ids, told.append, patience_s=5) == []
    assert told[-1] == 108
    await deciding


async def test_a_drain_that_stands_still_says_what_is_left(connection: Connection, orders: list[Order]) -> None:
    stuck = [order(A) for _ in range(3)]
    told: list[int] = []
    ids = [it.id for it in (stuck[0], *orders, *stuck[1:])]
    assert await drain(connection, ids, told.append, patience_s=0.2) == [it.id for it in stuck]
    assert told[-1] == 8
