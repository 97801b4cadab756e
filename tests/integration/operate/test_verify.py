"""The audit of a real database in which one thing at a time is wrong. No other check finds what it misses."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.orders import Order
from proof import audit_sql as verify_sql
from proof.offenders import NO_VERDICT, STOCK, TWO_VERDICTS, VERDICT_WITHOUT_ORDER
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


# ── all is well


async def test_a_faithful_database_is_clean(connection: Connection, orders: list[Order]) -> None:
    counts = {"orders": 8, "processed": 7, "failed": 1, "cancelled": 0, "dead_letters": 0, "discarded": 0}
    counts |= {"products": 2, "pending": 0}
    found, counted = await audited(connection, lag_s=0)
    assert (found, asdict(counted)) == ([], counts)


async def test_an_empty_database_is_clean(database_url: str) -> None:
    async with connected(database_url) as connection:
        found, counted = await audited(connection, lag_s=0)
    assert (found, set(asdict(counted).values())) == ([], {0})


async def test_orders_of_a_product_that_nobody_has_are_decided_and_no_stock_is_missed(
    connection: Connection, orders: list[Order]
) -> None:
    await settle(connection, [order(UNHEARD_OF, 3)])
    assert await offenders(connection) == []


async def test_what_is_committed_between_two_questions_is_not_half_seen(
    connection: Connection, orders: list[Order], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the audit block writers: persist_worker and product_api write while it reads."""
    rows, written = verify_sql._rows, 0

    async def work_and_rows(auditing: Connection, query: str) -> AsyncIterator[Any]:
        nonlocal written
        written += 1
        async with connected(database_url) as worker:
            await prepare(worker)
            await worker.execute("SET lock_timeout = '1s'")
            await write(worker, [order(B)], [])
            await worker.execute("UPDATE products SET qty = qty + 1")
        async for row in rows(auditing, query):
            yield row

    monkeypatch.setattr(verify_sql, "_rows", work_and_rows)
    found, counts = await audited(connection, lag_s=0)
    assert (found, counts.orders, counts.pending) == ([], 8, 0)
    monkeypatch.undo()
    found, counts = await audited(connection, lag_s=0)
    assert ({it.check for it in found}, counts.orders, counts.pending) == (
        {NO_VERDICT, STOCK},
        8 + written,
        written,
    )
    assert written == 9


async def test_an_audit_cannot_write(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_sql, "_BOOKS", "DELETE FROM orders RETURNING id::text, 1, 1, 1")
    with pytest.raises(Exception, match="read-only transaction"):
        await audited(connection)


# ── many


async def test_every_offender_is_told_however_few_rows_are_read_at_once(
    connection: Connection, orders: list[Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = [order(A) for _ in range(25)]
    await write(connection, stuck, [])
    await age(connection)
    await connection.execute("DELETE FROM orders WHERE id = $1", orders[0].id)
    await park(connection, orders[1])
    await connection.execute("UPDATE products SET qty = qty + 1")
    monkeypatch.setattr(verify_sql, "_FETCH_ROWS", 3)
    expected = [(NO_VERDICT, it.id) for it in stuck]
    expected += [(VERDICT_WITHOUT_ORDER, orders[0].id), (TWO_VERDICTS, orders[1].id), (STOCK, A), (STOCK, B)]
    assert sorted(await offenders(connection)) == sorted(expected)
