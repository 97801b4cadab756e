"""The audit of the event log, in a real database in which one thing at a time is wrong with it (P11)."""

from collections.abc import AsyncIterator

import pytest

from database import event_log
from database.connection import Connection
from persist_worker.write import prepare
from pipeline.contract.orders import Order
from proof.audit_sql import audit
from proof.offenders import EVENT_MISSING, EVENT_OFFSETS, EVENT_REPEATED, EVENT_WITHOUT_CAUSE, Offender
from tests.support.data.orders import new_product_id, order
from tests.support.services.workers import add_product, connected, park, settle

A = new_product_id()
LETTER = "(SELECT id FROM dead_letters)"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        await add_product(it, A, 10)
        yield it


@pytest.fixture
async def orders(connection: Connection) -> list[Order]:
    """Three that were decided in two batches, and one that was parked. All are numbered."""
    them = [order(A, at_ms=at) for at in range(3)]
    await settle(connection, them[:2])
    await settle(connection, them[2:])
    await park(connection, order(A))
    await event_log.number(connection)
    return them


async def offenders(connection: Connection) -> list[Offender]:
    found: list[Offender] = []
    await audit(connection, 60.0, found.append)
    return [it for it in found if it.check.startswith("event_")]


async def test_p11_a_faithful_log_is_clean_numbered_or_not(connection: Connection, orders: list[Order]) -> None:
    await settle(connection, [order(A)])
    assert await offenders(connection) == []


async def test_p11_what_is_older_than_the_log_needs_no_event(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("DELETE FROM event_batches; UPDATE event_log SET began_at = clock_timestamp()")
    assert [it.check for it in await offenders(connection)] == [EVENT_OFFSETS]


async def test_p11_a_verdict_without_its_event_is_found(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("ALTER TABLE stock_ledger DISABLE TRIGGER log_verdicts")
    await settle(connection, [late := order(A)])
    assert await offenders(connection) == [Offender(EVENT_MISSING, late.id, "one event of its verdict", "0 events")]


async def test_p11_a_parked_order_without_its_event_is_found(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("UPDATE event_batches SET letters = ARRAY[0] WHERE letters IS NOT NULL")
    letter = str(await connection.fetchval(f"SELECT {LETTER}"))
    assert sorted(await offenders(connection)) == [
        Offender(EVENT_MISSING, letter, "one event of its dead letter", "0 events"),
        Offender(EVENT_WITHOUT_CAUSE, "0", "no event", "an event of a dead letter that is not there"),
    ]


async def test_p11_an_event_that_is_there_twice_is_found(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("INSERT INTO event_batches (orders, size) VALUES (ARRAY[$1::uuid], 1)", orders[0].id)
    expected = Offender(EVENT_REPEATED, orders[0].id, "one event of its verdict", "2 events")
    assert await offenders(connection) == [expected]


async def test_p11_an_event_whose_verdict_is_gone_is_found(connection: Connection, orders: list[Order]) -> None:
    await connection.execute("DELETE FROM stock_ledger WHERE order_id = $1", orders[0].id)
    assert [(it.check, it.id) for it in await offenders(connection)] == [(EVENT_WITHOUT_CAUSE, orders[0].id)]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE event_batches SET first_offset = first_offset + 1 WHERE first_offset = 3",
        "UPDATE event_batches SET first_offset = first_offset + 7 WHERE first_offset = 4",
        "UPDATE event_log SET last_offset = last_offset + 1",
        "UPDATE event_log SET last_offset = last_offset - 1",
    ],
)
async def test_p11_a_gap_in_the_offsets_is_found(connection: Connection, orders: list[Order], damage: str) -> None:
    await connection.execute("DROP INDEX event_batches_by_offset")
    await connection.execute(damage)
    assert {it.check for it in await offenders(connection)} == {EVENT_OFFSETS}
