"""The transactions that cancel baskets: all lines or none, before the verdict and after it. P3 holds after each."""

import asyncio

import pytest

from database import event_log
from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.order_events import EventType
from pipeline.contract.orders import AnyOrder, Basket
from product_consumer.cancel import Cancelled
from product_consumer.ledger import record
from tests.support.data.orders import basket, new_product_id, order
from tests.support.scenes.audited import audited
from tests.support.scenes.cancelling import by, cancel_now, cancellation, outcomes, returns_of, verdict_of
from tests.support.services.workers import add_product, connected, qty_of

A, B, C = sorted(new_product_id() for _ in range(3))


@pytest.fixture(autouse=True)
async def stored(connection: Connection) -> None:
    await prepare(connection)
    for product_id in (A, B):
        await add_product(connection, product_id, 10)
    await add_product(connection, C, 0)


async def store(connection: Connection, *orders: AnyOrder) -> None:
    await write(connection, list(orders), [])


async def decide(connection: Connection, *orders: AnyOrder) -> None:
    await record(connection, list(orders), [])


async def assert_books_are_right(connection: Connection) -> None:
    assert (await audited(connection, lag_s=-1))[0] == []


async def ledger_row(connection: Connection, it: Basket) -> tuple[object, ...]:
    query = "SELECT product_id, quantity, line_count, outcome FROM stock_ledger WHERE order_id = $1"
    return tuple(*await connection.fetch(query, it.id))


async def test_p4_a_basket_that_is_not_decided_yet_is_cancelled_as_one_and_takes_no_stock(
    connection: Connection,
) -> None:
    await store(connection, it := basket((B, 3), (A, 2)))
    await cancel_now(connection, cancellation(it))
    await decide(connection, it)
    assert await ledger_row(connection, it) == (None, None, 2, "CANCELLED")
    assert await outcomes(connection, it) == ["before_verdict"]
    assert (await qty_of(connection, A), await qty_of(connection, B)) == (10, 10)
    await assert_books_are_right(connection)


async def test_p4_a_cancellation_that_overtakes_its_basket_waits_for_it(connection: Connection) -> None:
    await cancel_now(connection, cancellation(it := basket((A, 3), (B, 3))))
    await store(connection, it, other := basket((A, 10), (B, 10), at_ms=1))
    await decide(connection, it, other)
    assert await ledger_row(connection, it) == (None, None, 2, "CANCELLED")
    assert (await outcomes(connection, it), await verdict_of(connection, other)) == (["before_verdict"], "PROCESSED")
    await assert_books_are_right(connection)


async def test_p3_the_units_of_each_line_of_a_processed_basket_come_back_once(connection: Connection) -> None:
    await store(connection, it := basket((B, 3), (A, 2)), other := order(A, 8))
    await decide(connection, it, other)
    cancelled = await cancel_now(connection, cancellation(it))
    assert {product.id: product.qty for product in cancelled.products} == {A: 2, B: 10}
    assert cancelled.restocked == {A}, "A was sold out"
    again = await cancel_now(connection, cancellation(it))
    assert again.settled == Cancelled().settled
    assert again.restocked == {A, B}, "nobody knows what was sold out"
    await decide(connection, it)
    assert sorted(await returns_of(connection, it)) == sorted([(A, 2), (B, 3)])
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("PROCESSED", ["returned"])
    assert (await qty_of(connection, A), await qty_of(connection, B)) == (2, 10)
    await assert_books_are_right(connection)


async def test_p3_baskets_and_single_orders_are_given_back_in_one_batch(connection: Connection) -> None:
    mixed: list[AnyOrder] = [basket((A, 2), (B, 1)), order(A, 3), basket((B, 4), (A, 1)), order(B, 1)]
    await store(connection, *mixed)
    await decide(connection, *mixed[:3])
    await cancel_now(connection, *map(cancellation, mixed))
    assert [await outcomes(connection, it) for it in mixed] == [["returned"]] * 3 + [["before_verdict"]]
    assert (await qty_of(connection, A), await qty_of(connection, B)) == (10, 10)
    await assert_books_are_right(connection)


async def test_a_basket_that_failed_stays_failed(connection: Connection) -> None:
    await store(connection, it := basket((A, 2), (C, 1)))
    await decide(connection, it)
    await cancel_now(connection, cancellation(it))
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("FAILED", ["too_late"])
    assert (await returns_of(connection, it), await qty_of(connection, A)) == ([], 10)
    await assert_books_are_right(connection)


async def test_only_its_own_client_cancels_a_basket(connection: Connection) -> None:
    await store(connection, it := basket((A, 2), (B, 1), client="shop"))
    await decide(connection, it)
    await cancel_now(connection, by("stranger", it), by("shop", it))
    assert await outcomes(connection, it) == ["not_yours", "returned"]
    await assert_books_are_right(connection)


async def test_p3_baskets_whose_products_cross_are_cancelled_at_once_without_a_deadlock(
    connection: Connection, database_url: str
) -> None:
    baskets = [basket((A, 1), (B, 1)) if at % 2 else basket((B, 1), (A, 1)) for at in range(6)]
    await store(connection, *baskets)
    await decide(connection, *baskets[:4])
    async with connected(database_url) as other:
        await asyncio.gather(
            cancel_now(connection, *map(cancellation, baskets)),
            cancel_now(other, *map(cancellation, reversed(baskets))),
        )
    assert (await qty_of(connection, A), await qty_of(connection, B)) == (10, 10)
    await assert_books_are_right(connection)


async def test_p11_the_events_of_a_cancelled_basket_show_its_lines(connection: Connection) -> None:
    early, late = basket((A, 1), (B, 2), reference="no. 7"), basket((B, 1), (A, 1))
    await store(connection, early, late)
    await cancel_now(connection, cancellation(early))
    await decide(connection, late)
    await cancel_now(connection, cancellation(late))
    end = await event_log.number(connection)
    events = await event_log.read(connection, end.log_id, 0, end.last_offset)
    assert [(it.event.order.id, it.event.sequence, it.event.type) for it in events] == [
        (early.id, 1, EventType.CANCELLED),
        (late.id, 1, EventType.PROCESSED),
        (late.id, 2, EventType.CANCELLED),
    ]
    assert [it.products for it in events] == [[A, B], [B, A], [B, A]]
    assert [it.event.order.reference for it in events] == ["no. 7", None, None]
