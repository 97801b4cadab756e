"""Writing baskets: an order is stored with all its lines or not at all, whatever else is in its batch."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

import asyncpg
import msgspec
import pytest

from database.connection import Connection, Database
from database.copy_text import copy_rows
from database.faults import Fault, fault_of
from persist_worker import write as write_module
from persist_worker.write import Written, each_once, in_turns, prepare, write
from pipeline.contract.columns import Column
from pipeline.contract.orders import AnyOrder, Basket, OrderLine
from pipeline.contract.reasons import Reason
from pipeline.process.health import Health
from tests.support.data.orders import basket, body_of, new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.services.workers import DeadRow, connected, dead_letters, stored_lines
from tests.support.time.conditions import eventually

A, B, C = (new_product_id() for _ in range(3))


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


def lines(*orders: AnyOrder) -> dict[str, list[tuple[str, int]]]:
    """As `stored_lines` finds these orders."""
    return {
        it.id: [(line.product_id, line.quantity) for line in (it.lines if isinstance(it, Basket) else (it,))]
        for it in orders
    }


def with_lines(it: Basket, *changed: OrderLine) -> Basket:
    return msgspec.structs.replace(it, lines=changed)


def changed(it: OrderLine, /, **changes: object) -> OrderLine:
    return msgspec.structs.replace(it, **changes)


def renamed(it: AnyOrder, order_id: str) -> AnyOrder:
    return msgspec.structs.replace(it, id=order_id)


def parked(bad: AnyOrder, reason: str = Reason.INVALID_DATA) -> DeadRow:
    return DeadRow(bad.id, "persist", reason, body_of(bad))


async def test_a_row_is_a_line_and_the_first_has_what_belongs_to_the_whole_order(connection: Connection) -> None:
    it = basket((A, 1), (B, 2), (C, 3), price="0.10", client="shop", request_hash="00ff")
    assert (await write(connection, [it], [])).path == "direct"
    rows = await connection.fetch(
        "SELECT line, line_count, product_id::text, quantity, unit_price, total_price, accepted_at, client,"
        " request_hash FROM orders WHERE id = $1 ORDER BY line",
        it.id,
    )
    price, at = Decimal("0.10"), it.created_at
    assert [tuple(row) for row in rows] == [
        (0, 3, A, 1, price, Decimal("0.10"), at, "shop", b"\x00\xff"),
        (1, 3, B, 2, price, Decimal("0.20"), at, "shop", None),
        (2, 3, C, 3, price, Decimal("0.30"), at, "shop", None),
    ]


async def test_orders_of_one_line_and_baskets_take_one_copy(connection: Connection, copies: list[str]) -> None:
    orders = [it for _ in range(50) for it in (order(A), basket((A, 1), (B, 2)), order(B, 3))]
    assert await write(connection, orders, []) == Written("direct", orders)
    assert copies == ["orders"]
    assert await stored_lines(connection) == lines(*orders)
    single = await connection.fetch("SELECT line, line_count FROM orders WHERE id = $1", orders[0].id)
    assert [tuple(row) for row in single] == [(0, None)]


async def test_a_basket_of_the_most_lines_is_stored(connection: Connection) -> None:
    it = basket(*((new_product_id(), 1) for _ in range(50)))
    await write(connection, [it], [])
    assert await stored_lines(connection) == lines(it)


# ── P2: duplicates


async def test_p2_baskets_that_are_there_already_are_stored_once(connection: Connection, copies: list[str]) -> None:
    old, new, single = basket((A, 1), (B, 1)), basket((A, 2), (B, 2), (C, 2)), order(A)
    await write(connection, [old], [])
    copies.clear()
    assert await write(connection, [old, new, single], []) == Written("staging", [new, single])
    assert await write(connection, [old, new, single], []) == Written("staging", [])
    assert copies == ["orders", "orders_staging"] * 2
    assert await stored_lines(connection) == lines(old, new, single)


def test_p2_a_repetition_in_a_batch_is_dropped_and_a_stranger_under_its_id_is_not() -> None:
    first = basket((A, 1), (B, 1))
    repriced = msgspec.structs.replace(basket((A, 1), (B, 1), price="13"), id=first.id)
    strangers = [renamed(it, first.id) for it in (basket((A, 1), (B, 2)), order(A), order(B))]
    orders = each_once([first, repriced, first, *strangers, *strangers])
    assert orders == [first, *strangers]
    assert list(in_turns([order(C), *orders]))[1:] == [[it] for it in strangers]


STORED = basket((A, 1), (B, 2), (C, 3))
FIRST, SECOND, THIRD = STORED.lines
STRANGERS: dict[str, AnyOrder] = {
    "another quantity": with_lines(STORED, FIRST, changed(SECOND, quantity=9, total_price=Decimal("112.5")), THIRD),
    "another product": with_lines(STORED, FIRST, SECOND, changed(THIRD, product_id=new_product_id())),
    "a line less": with_lines(STORED, FIRST, SECOND),
    "a line more": with_lines(STORED, *STORED.lines, changed(FIRST, line=3, product_id=new_product_id())),
    "only the first line": order(A, 1, id=STORED.id),
    "a line of another place": with_lines(STORED, changed(SECOND, line=0), changed(FIRST, line=1), THIRD),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("comes_first", [True, False], ids=["basket first", "stranger first"])
async def test_another_order_under_the_same_id_is_parked_and_no_line_of_it_is_stored(
    connection: Connection, stranger: AnyOrder, comes_first: bool
) -> None:
    first, second = (STORED, stranger) if comes_first else (stranger, STORED)
    neighbour = basket((A, 1), (B, 1))
    await write(connection, [first], [])
    written = await write(connection, [second, neighbour], [])
    assert (written.stored, written.refused) == ([neighbour], [second])
    assert await stored_lines(connection) == lines(first, neighbour)
    assert await dead_letters(connection) == [parked(second, Reason.ID_CONFLICT)]


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
async def test_two_orders_under_one_id_in_one_batch_are_one_order_and_one_dead_letter(
    connection: Connection, stranger: AnyOrder
) -> None:
    written = await write(connection, each_once([STORED, stranger]), [])
    assert (written.stored, written.refused) == ([STORED], [stranger])
    assert await stored_lines(connection) == lines(STORED)


async def test_an_order_whose_id_a_bad_order_shares_in_its_batch_is_stored(connection: Connection) -> None:
    bad = with_lines(STORED, FIRST, changed(SECOND, quantity=0, total_price=Decimal(0)), THIRD)
    written = await write(connection, each_once([bad, STORED]), [])
    assert (written.path, written.stored, written.refused) == ("bisect", [STORED], [bad])
    assert await stored_lines(connection) == lines(STORED)


async def test_p2_a_redelivered_basket_behind_a_stranger_in_its_batch_is_not_refused(connection: Connection) -> None:
    """It has to be forwarded: the worker that stored it may have died before."""
    await write(connection, [STORED], [])
    stranger = STRANGERS["another quantity"]
    written = await write(connection, each_once([stranger, STORED]), [])
    assert (written.stored, written.refused) == ([], [stranger])


# ── P10: poison


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_p10_one_bad_line_parks_the_whole_order_and_costs_no_other(connection: Connection, place: int) -> None:
    bad_lines = list(STORED.lines)
    bad_lines[place] = changed(bad_lines[place], quantity=0, total_price=Decimal(0))
    bad = with_lines(STORED, *bad_lines)
    others: list[AnyOrder] = [basket((A, 1), (B, 1)), order(A), basket((B, 1), (C, 1)), order(C)]
    written = await write(connection, [*others[:2], bad, *others[2:]], [])
    assert (written.path, written.stored, written.refused) == ("bisect", others, [bad])
    assert await stored_lines(connection) == lines(*others)
    assert await dead_letters(connection) == [parked(bad)]


async def test_p10_poison_and_duplicates_and_strangers_in_one_batch(connection: Connection) -> None:
    old, new = basket((A, 1), (B, 1)), basket((B, 1), (C, 1))
    bad = with_lines(basket((A, 1), (B, 1)), FIRST, changed(SECOND, total_price=Decimal(1)))
    stranger = STRANGERS["a line less"]
    await write(connection, [old, STORED], [])
    written = await write(connection, [old, bad, stranger, new], [])
    assert (written.path, written.stored, written.refused) == ("bisect", [new], [bad, stranger])
    assert await stored_lines(connection) == lines(old, STORED, new)


# ── while PostgreSQL fails


def database_of(url: str) -> Database:
    return Database(url, Health("writer", "database"), prepare)


def writing(database: Database, orders: Sequence[AnyOrder]) -> "asyncio.Task[Written]":
    return asyncio.create_task(database.until_it_works(lambda it: write(it, orders, []), "queue"))


async def test_p2_two_workers_with_overlapping_batches_at_once_store_each_basket_once_and_whole(
    connection: Connection, database_url: str
) -> None:
    """One half of the rounds directly, the other half in staging, where both wait for each other's line 0."""
    here, there = database_of(database_url), database_of(database_url)
    expected: dict[str, list[tuple[str, int]]] = {}
    for number in range(20):
        old = [order(A)] if number % 2 else []
        await write(connection, old, [])
        orders = each_once(it for _ in range(20) for it in (basket((A, 1), (B, 2)), order(C)))
        batches = [each_once([*old, *orders[:30]]), each_once([*old, *orders[10:]])]
        both = await asyncio.gather(*map(writing, (here, there), batches))
        assert sum(len(it.stored) for it in both) == len(orders)
        assert [it.refused for it in both] == [[], []]
        expected |= lines(*old, *orders)
    assert await stored_lines(connection) == expected
    await asyncio.gather(here.close(), there.close())


async def test_p2_two_strangers_under_one_id_at_once_never_mix_their_lines(
    connection: Connection, database_url: str
) -> None:
    here, there = database_of(database_url), database_of(database_url)
    other = STRANGERS["another product"]
    for _ in range(20):
        id_ = order(A).id
        first, second = renamed(STORED, id_), renamed(other, id_)
        both = await asyncio.gather(writing(here, [first]), writing(there, [second]))
        stored = [it for written in both for it in written.stored]
        assert len(stored) == 1
        assert (await stored_lines(connection))[id_] == lines(*stored)[id_]
    await asyncio.gather(here.close(), there.close())


async def test_p1_a_connection_lost_at_any_moment_of_a_write_leaves_no_half_basket(
    connection: Connection, database_url: str
) -> None:
    old, bad = basket((A, 1), (B, 1)), with_lines(STORED, FIRST, changed(SECOND, quantity=0))
    await write(connection, [old], [])
    async with proxy_to(database_url) as proxy:
        database = database_of(proxy.url(database_url))
        await writing(database, [old, bad])
        whole = proxy.sent_bytes
        await database.close()
    expected = lines(old)
    for cut_after in range(whole, 0, -97):
        new = basket((A, 1), (B, 2), (C, 3))
        assert (await _written_although_cut(database_url, cut_after, [old, bad, new])).refused == [bad]
        expected |= lines(new)
        assert await stored_lines(connection) == expected


async def _written_although_cut(database_url: str, cut_after: int, orders: list[AnyOrder]) -> Written:
    async with proxy_to(database_url) as proxy:
        proxy.cut_after_bytes = cut_after
        database = database_of(proxy.url(database_url))
        work = writing(database, orders)
        await eventually(lambda: work.done() or proxy.connections > 1)
        proxy.cut_after_bytes = None
        written = await work
        await database.close()
        return written


# ── the release before

_STAGING_BEFORE = "INSERT INTO orders (id) SELECT id FROM orders_staging ON CONFLICT (id) DO NOTHING"


async def test_the_release_before_stores_new_orders_and_holds_a_batch_with_duplicates(connection: Connection) -> None:
    """It knows the key (id). Its batch waits in its hands, and goes to a new worker once it stops."""
    await connection.execute("INSERT INTO orders VALUES ($1, $1, 1, 1, 1, now())", order(A).id)
    with pytest.raises(asyncpg.PostgresError) as raised:
        await connection.execute(_STAGING_BEFORE)
    assert raised.value.sqlstate == "42P10"
    assert fault_of(raised.value) is Fault.PASSING
