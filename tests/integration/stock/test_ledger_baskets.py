"""Deciding baskets: all lines or none, in one transaction. After every test the books must be right (P3)."""

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.fields import EXAMPLE_PRODUCT
from pipeline.contract.orders import AnyOrder, Basket
from pipeline.contract.reasons import Reason
from product_consumer.ledger import Recorded, record, sort_out
from tests.support.data.orders import basket, new_product_id, order
from tests.support.services.workers import add_product, assert_conserved, connected, qty_of, settle

A, B, C, UNKNOWN = sorted(new_product_id() for _ in range(4))


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Checks the books at the end."""
    async with connected(database_url) as it:
        await prepare(it)
        yield it
        await assert_conserved(it)


async def ledger(connection: Connection) -> dict[str, tuple[object, ...]]:
    rows = await connection.fetch(
        "SELECT order_id::text, outcome, reason, product_id::text, quantity, line_count, failed_line, units_left"
        " FROM stock_ledger"
    )
    return {row[0]: tuple(row)[1:] for row in rows}


async def test_p3_a_basket_takes_all_its_lines_and_has_one_verdict(connection: Connection) -> None:
    for product_id in (A, B, C):
        await add_product(connection, product_id, 10)
    it = basket((A, 1), (B, 2), (C, 3))
    await settle(connection, [it])
    assert await ledger(connection) == {it.id: ("PROCESSED", None, None, None, 3, None, None)}
    assert [await qty_of(connection, product_id) for product_id in (A, B, C)] == [9, 8, 7]


async def test_p4_a_refused_basket_takes_nothing_and_says_which_line_why_and_how_many_were_left(
    connection: Connection,
) -> None:
    for product_id in (A, B, C):
        await add_product(connection, product_id, 5)
    await connection.execute("UPDATE products SET deleted_at = now() WHERE id = $1", C)
    short, deleted, unknown = basket((A, 5), (B, 6)), basket((A, 1), (C, 1)), basket((UNKNOWN, 1), (A, 1))
    single = order(A, 6)
    await settle(connection, [short, deleted, unknown, single])
    assert await ledger(connection) == {
        short.id: ("FAILED", Reason.OUT_OF_STOCK, None, None, 2, 1, 5),
        deleted.id: ("FAILED", Reason.PRODUCT_DELETED, None, None, 2, 1, None),
        unknown.id: ("FAILED", Reason.UNKNOWN_PRODUCT, None, None, 2, 0, None),
        single.id: ("FAILED", Reason.OUT_OF_STOCK, A, 6, None, None, 5),
    }
    assert [await qty_of(connection, product_id) for product_id in (A, B, C)] == [5, 5, 5]


async def test_p2_a_redelivered_basket_is_decided_once(connection: Connection) -> None:
    for product_id in (A, B):
        await add_product(connection, product_id, 10)
    old, new = basket((A, 1), (B, 2)), basket((A, 3), (B, 4))
    await settle(connection, [old])
    await write(connection, [new], [])
    recorded = await record(connection, [old, new], [])
    assert ([it.order_id for it in recorded.verdicts], recorded.duplicates) == ([new.id], 1)
    again = await record(connection, [new, old], [])
    assert again == Recorded([], recorded.products, duplicates=2)
    assert [await qty_of(connection, product_id) for product_id in (A, B)] == [6, 4]


async def test_p3_two_consumers_with_crossing_baskets_never_wait_in_a_circle(
    connection: Connection, database_url: str
) -> None:
    """One has A before B in its baskets, the other B before A: locks taken line by line would deadlock at once."""
    products = sorted(new_product_id() for _ in range(12))
    for product_id in products:
        await add_product(connection, product_id, 100)
    async with connected(database_url) as neighbour:
        await prepare(neighbour)
        for _ in range(15):
            here, there = crossing(products, 1), crossing(products, -1)
            await asyncio.gather(settle(connection, here), settle(neighbour, there))  # a deadlock would be raised here
    counted = await connection.fetch("SELECT outcome, count(*) FROM stock_ledger GROUP BY outcome")
    assert sum(row["count"] for row in counted) == 15 * 2 * 20
    assert {row["outcome"] for row in counted} == {"PROCESSED", "FAILED"}


def crossing(products: list[str], step: int) -> list[AnyOrder]:
    """Baskets of three products, named in the order of their ids or against it."""
    return [
        basket(*((it, random.randint(1, 4)) for it in sorted(random.sample(products, 3))[::step]), at_ms=at)
        for at in range(20)
    ]


async def test_p2_overlapping_batches_at_once_give_each_basket_one_verdict(
    connection: Connection, database_url: str
) -> None:
    for product_id in (A, B, C):
        await add_product(connection, product_id, 300)
    async with connected(database_url) as neighbour:
        for _ in range(10):
            orders = [it for _ in range(20) for it in (basket((A, 1), (B, 1)), basket((C, 2), (A, 1)), order(B))]
            await write(connection, orders, [])
            there = orders[20:]
            random.shuffle(there)
            both = await asyncio.gather(record(connection, orders[:40], []), record(neighbour, there, []))
            decided = [it.order_id for recorded in both for it in recorded.verdicts]
            assert sorted(decided) == sorted(it.id for it in orders)
    assert await connection.fetchval("SELECT count(*) FROM stock_ledger") == 600


@pytest.mark.parametrize(
    "poison",
    [{"product_id": "y"}, {"product_id": EXAMPLE_PRODUCT.upper()}, {"quantity": 0}, {"quantity": 2**31}],
    ids=str,
)
def test_p10_a_basket_with_a_bad_line_is_sorted_out_whole(poison: dict[str, object]) -> None:
    good = basket((A, 1), (B, 1))
    bad = damaged(basket((A, 1), (B, 1), (C, 1)), **poison)
    kept, dead = sort_out([good, bad])
    assert (kept, [(it.order_id, it.reason) for it in dead]) == ([good], [(bad.id, Reason.INVALID_DATA)])


def damaged(it: Basket, **changes: object) -> Basket:
    first, second, *rest = it.lines
    return msgspec.structs.replace(it, lines=(first, msgspec.structs.replace(second, **changes), *rest))
