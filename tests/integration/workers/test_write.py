"""Writing batches to PostgreSQL: each order is stored once, and a bad order costs only itself."""

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest

from database.connection import Connection
from database.copy_text import copy_rows
from database.dead_letters import DeadLetter
from persist_worker import write as write_module
from persist_worker.write import Written, each_once, prepare, write
from pipeline.broker.incoming import Unreadable
from pipeline.contract.columns import Column
from pipeline.contract.orders import COLUMNS, OF_BASKET, Basket, Order, OrderLine
from pipeline.contract.reasons import Reason
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.data.texts import TEXTS
from tests.support.services.workers import DeadRow, connected, dead_letters, stored_orders

A = new_product_id()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        yield it


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The table of each COPY."""
    tables: list[str] = []

    async def counted(connection: Connection, table: str, columns: Sequence[Column], rows: Sequence[object]) -> None:
        tables.append(table)
        await copy_rows(connection, table, columns, rows)

    monkeypatch.setattr(write_module, "copy_rows", counted)
    return tables


def changed(good: Order, **changes: object) -> Order:
    return msgspec.structs.replace(good, **changes)


def parked(bad: Order, reason: str = Reason.INVALID_DATA) -> DeadRow:
    return DeadRow(bad.id, "persist", reason, body_of(bad))


# ── the direct way


async def test_a_row_is_the_order_to_the_last_digit(connection: Connection) -> None:
    it = order(
        A,
        3,
        unit_price=Decimal("1234567890.12"),
        total_price=Decimal("3703703670.36"),
        created_at=datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC),
        request_hash="00ff5c0a",
        client="a.b-c_9",
    )
    assert (await write(connection, [it], [])).path == "direct"
    (row,) = await connection.fetch("SELECT * FROM orders")
    assert dict(row) | {"persisted_at": None} == {
        "id": row["id"],
        "product_id": row["product_id"],
        "quantity": 3,
        "unit_price": Decimal("1234567890.12"),
        "total_price": Decimal("3703703670.36"),
        "accepted_at": it.created_at,
        "request_hash": b"\x00\xff\\\n",
        "client": "a.b-c_9",
        "persisted_at": None,
        "reference": None,
        "metadata": None,
        "line": 0,
        "line_count": None,
    }
    assert (str(row["id"]), str(row["product_id"])) == (it.id, A)
    assert row["persisted_at"] is not None


async def test_the_columns_are_those_of_the_migrated_table(connection: Connection) -> None:
    rows = await connection.fetch(
        "SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid"
        " WHERE attrelid = 'orders'::regclass AND attnum > 0"
    )
    types = {name: {"int4": "integer", "int2": "smallint"}.get(type_, type_) for name, type_ in rows}
    set_by_postgresql = {"persisted_at": "timestamptz"}
    set_by_postgresql |= {"reference": "text", "metadata": "json"}
    assert types == {**{it.name: it.type for it in (*COLUMNS, *OF_BASKET)}, **set_by_postgresql}


def test_every_member_of_an_order_is_stored_or_known_not_to_be() -> None:
    not_stored = {"status", "traceparent", "lines"}
    assert sorted(Order.__struct_fields__) == sorted([*not_stored, *(it.member for it in COLUMNS)])
    of_basket = {*Basket.__struct_fields__, *OrderLine.__struct_fields__}
    assert of_basket == {*Order.__struct_fields__, *(it.member for it in OF_BASKET)} - {"line_count"}


async def test_new_orders_take_one_copy(connection: Connection, copies: list[str]) -> None:
    orders = [order(A) for _ in range(1000)]
    assert await write(connection, orders, []) == Written("direct", orders)
    assert copies == ["orders"]
    assert await stored_orders(connection) == {it.id: (A, 1) for it in orders}


async def test_owned_and_unowned_orders_of_all_sorts_take_one_copy(connection: Connection, copies: list[str]) -> None:
    sorts = [order(A, client=client, request_hash=it) for client in (None, "shop") for it in (None, "00ff")]
    await write(connection, sorts, [])
    rows = await connection.fetch("SELECT id::text, client, request_hash FROM orders ORDER BY id")
    hashes = [it.request_hash and bytes.fromhex(it.request_hash) for it in sorts]
    assert [tuple(row) for row in rows] == [(it.id, it.client, h) for it, h in zip(sorts, hashes, strict=True)]
    assert copies == ["orders"]


@pytest.mark.parametrize("text", [it for it in TEXTS.values() if it], ids=[it for it in TEXTS if it != "empty"])
async def test_any_text_is_stored_as_it_is(connection: Connection, text: str) -> None:
    before, it, after = order(A, client="shop"), order(A, client=text), order(A)
    assert await write(connection, [before, it, after], []) == Written("direct", [before, it, after])
    rows = await connection.fetch("SELECT client FROM orders ORDER BY id")
    assert [row["client"] for row in rows] == ["shop", text, None]


async def test_nothing_to_write_is_written(connection: Connection) -> None:
    assert (await write(connection, [], [])).stored == []


# ── P2: duplicates


def test_p2_a_repetition_in_a_batch_is_dropped_and_a_stranger_under_its_id_is_not() -> None:
    first = order(A)
    stranger = changed(first, quantity=2)
    repriced = changed(first, unit_price=Decimal(13), total_price=Decimal(13))
    assert each_once([first, stranger, first, repriced, stranger]) == [first, stranger]


async def test_p2_orders_that_are_there_already_stay_one_row(connection: Connection, copies: list[str]) -> None:
    old, new = [order(A) for _ in range(5)], [order(A) for _ in range(5)]
    await write(connection, old, [])
    copies.clear()
    written = await write(connection, [*new[:2], *old[2:], *new[2:]], [])
    assert written == Written("staging", new)
    assert copies == ["orders", "orders_staging"]
    assert (await stored_orders(connection)).keys() == {it.id for it in (*old, *new)}


async def test_p2_a_whole_batch_again_changes_nothing(connection: Connection) -> None:
    orders = [order(A) for _ in range(100)]
    await write(connection, orders, [])
    before = await connection.fetch("SELECT * FROM orders ORDER BY id")
    for _ in range(2):
        assert await write(connection, orders, []) == Written("staging", [])
    assert await connection.fetch("SELECT * FROM orders ORDER BY id") == before


async def test_p5_a_retry_at_another_price_keeps_the_first(connection: Connection) -> None:
    """The id of a keyed order is derived, so a retry may have the same id and a new price."""
    first = order(A, price="1.00")
    await write(connection, [first], [])
    written = await write(connection, [changed(first, unit_price=Decimal(2), total_price=Decimal(2))], [])
    assert written == Written("staging", [])
    assert await connection.fetchval("SELECT unit_price FROM orders") == Decimal("1.00")


# ── a clash of ids


@pytest.mark.parametrize("difference", [{"product_id": new_product_id()}, {"quantity": 2, "total_price": Decimal(25)}])
async def test_another_order_under_the_same_id_is_parked_and_the_first_stays(
    connection: Connection, difference: dict[str, object]
) -> None:
    first, neighbour = order(A), order(A)
    stranger = changed(first, **difference)
    await write(connection, [first], [])
    before = await connection.fetch("SELECT * FROM orders")
    written = await write(connection, [stranger, neighbour], [])
    assert (written.stored, written.refused) == ([neighbour], [stranger])
    assert await connection.fetch("SELECT * FROM orders WHERE id = $1", first.id) == before
    assert await dead_letters(connection) == [parked(stranger, Reason.ID_CONFLICT)]


async def test_two_orders_under_one_id_in_one_batch_are_one_row_and_one_dead_letter(connection: Connection) -> None:
    first = order(A)
    stranger = changed(first, quantity=2, total_price=Decimal(25))
    written = await write(connection, each_once([first, stranger]), [])
    assert (written.stored, written.refused) == ([first], [stranger])
    assert await stored_orders(connection) == {first.id: (A, 1)}
    assert await dead_letters(connection) == [parked(stranger, Reason.ID_CONFLICT)]


# ── P10: poison

POISON: dict[str, dict[str, object]] = {
    "NUL": {"request_hash": "ab\0"},
    "a tab": {"request_hash": "ab\tcd"},
    "a newline": {"request_hash": "ab\ncd"},
    "a backslash": {"request_hash": "ab\\cd"},
    "a row within": {"request_hash": f"ab\n{A}\t{A}\t1\t1\t1\t2026-01-01T00:00:00Z\t\\N"},
    "the end of the data": {"id": "\\."},
    "no hex": {"request_hash": "xyz"},
    "a client without a name": {"client": ""},
    "a NUL in a client": {"client": "shop\0"},
    "no uuid": {"id": "not-a-uuid"},
    "no uuid of a product": {"product_id": ""},
    "a price too high": {"unit_price": Decimal("1e10"), "total_price": Decimal("1e10")},
    "a price without end": {"unit_price": Decimal("1e999999999"), "total_price": Decimal("1e999999999")},
    "a price below zero": {"unit_price": Decimal(-1), "total_price": Decimal(-1)},
    "a total too high": {"total_price": Decimal("1e18")},
    "nothing ordered": {"quantity": 0, "total_price": Decimal(0)},
    "less than nothing": {"quantity": -1, "total_price": Decimal("-12.50")},
    "more than int4": {"quantity": 2**31},
    "more than int8": {"quantity": 2**63},
    "a total that is wrong": {"quantity": 2, "total_price": Decimal("12.50")},
    "a time zone too far": {"created_at": datetime.fromisoformat("2026-01-01T00:00:00+23:00")},
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
async def test_p10_a_poison_row_costs_only_itself(connection: Connection, poison: dict[str, object]) -> None:
    before, after = order(A), order(A)
    bad = changed(order(A), **poison)
    written = await write(connection, [before, bad, after], [])
    assert (written.path, written.stored, written.refused) == ("bisect", [before, after], [bad])
    assert (await stored_orders(connection)).keys() == {before.id, after.id}
    (letter,) = await dead_letters(connection)
    assert replace(letter, order_id=bad.id) == parked(bad)
    assert await _commits(connection) == 1


async def _commits(connection: Connection) -> int:
    """The number of transactions that wrote the rows."""
    query = "SELECT count(*) FROM (SELECT xmin::text FROM orders UNION SELECT xmin::text FROM dead_letters) AS t"
    count: int = await connection.fetchval(query)
    return count


async def test_p10_poison_and_duplicates_in_one_batch(connection: Connection) -> None:
    old, new = order(A), order(A)
    bad = changed(order(A), quantity=0)
    await write(connection, [old], [])
    written = await write(connection, [old, bad, new], [])
    assert (written.path, written.stored, written.refused) == ("bisect", [new], [bad])
    assert (await stored_orders(connection)).keys() == {old.id, new.id}


async def test_p10_a_batch_of_nothing_but_poison_is_all_parked(connection: Connection) -> None:
    bad = [changed(order(A), quantity=0) for _ in range(7)]
    assert (await write(connection, bad, [])).refused == bad
    assert await dead_letters(connection) == [parked(it) for it in bad]


@pytest.mark.parametrize(("rows", "bad"), [(1, 1), (1024, 1), (1000, 3), (1000, 10)])
async def test_p10_k_bad_of_n_cost_k_log_n_copies(
    connection: Connection, copies: list[str], rows: int, bad: int
) -> None:
    orders = [order(A) for _ in range(rows)]
    for index in range(bad):
        where = index * rows // bad
        orders[where] = changed(orders[where], quantity=0)
    written = await write(connection, orders, [])
    assert (len(written.stored), len(written.refused)) == (rows - bad, bad)
    # One direct COPY, one staged batch, and for each bad row at most two halves at each level of the bisection.
    assert len(copies) <= 2 + 2 * bad * math.ceil(math.log2(rows))


async def test_p10_what_could_not_be_read_is_parked_with_the_good_rows(connection: Connection) -> None:
    good, known = order(A), order(A).id
    letters = [
        DeadLetter.of(Unreadable(b"\x00\xff", "no JSON")),
        DeadLetter.of(Unreadable(b"[{}]", "no quantity", order_id=known)),
        DeadLetter.of(Unreadable(b"[]", "schema 9", schema=9)),
    ]
    assert (await write(connection, [good], letters)).stored == [good]
    assert await stored_orders(connection) == {good.id: (A, 1)}
    assert await dead_letters(connection) == [
        DeadRow(None, "persist", Reason.UNREADABLE, b"\x00\xff"),
        DeadRow(known, "persist", Reason.UNREADABLE, b"[{}]"),
        DeadRow(None, "persist", Reason.UNKNOWN_SCHEMA, b"[]"),
    ]


async def test_p10_poison_that_is_delivered_again_is_parked_once(connection: Connection) -> None:
    """Until it was replayed. If it fails again after that, it is parked again."""
    unreadable = [DeadLetter.of(Unreadable(b"\x00\xff", "no JSON"))]
    bad = changed(order(A), quantity=0)
    stranger = changed(order(A), quantity=2, total_price=Decimal(25))
    await write(connection, [changed(stranger, quantity=1, total_price=Decimal("12.50"))], [])
    newly_parked = [len((await write(connection, [bad, stranger], unreadable * 2)).parked) for _ in range(3)]
    assert newly_parked == [3, 0, 0]
    assert len(await dead_letters(connection)) == 3
    await connection.execute("UPDATE dead_letters SET replayed_at = now() WHERE order_id = $1", bad.id)
    await write(connection, [bad, stranger], unreadable)
    assert len(await dead_letters(connection)) == 4
