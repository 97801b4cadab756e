"""The accounting's questions to a real database about baskets, references, metadata and cancellations."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.orders import Order
from proof.accounting import Account, Sent, Stock
from proof.accounting_sql import audit, drain, unsettled
from tests.support.data.detailed_orders import nasty_details
from tests.support.data.orders import basket, new_product_id, order
from tests.support.scenes.accounted import sent
from tests.support.scenes.cancelling import cancel_now, cancellation
from tests.support.services.workers import add_product, connected, settle

A, B, C = (new_product_id() for _ in range(3))


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        for product_id, qty in ((A, 10), (B, 5), (C, 60)):
            await add_product(it, product_id, qty)
        yield it


@pytest.fixture
async def orders(connection: Connection) -> list[Order]:
    """Eight that were sent and decided: five for A, of which all fit, and three for B, of which the last does not."""
    them = [order(A, 2, at_ms=at) for at in range(5)] + [order(B, 2, at_ms=at) for at in range(3)]
    await settle(connection, them)
    return them


async def audited(connection: Connection, what: Sent) -> Account:
    return await audit(connection, what, [A, B, C])


async def restock(connection: Connection, product_id: str, delta: int) -> None:
    await connection.execute("UPDATE products SET qty = qty + $2 WHERE id = $1", product_id, delta)
    await connection.execute(
        "INSERT INTO stock_adjustments (product_id, delta, reason) VALUES ($1, $2, 'restock')", product_id, delta
    )


async def test_baskets_are_accounted_for_with_all_their_lines(connection: Connection, orders: list[Order]) -> None:
    stored, short, undecided_one = basket((B, 1), (A, 1)), basket((A, 1), (B, 9)), basket((A, 1), (B, 1))
    await restock(connection, A, 1)
    await restock(connection, B, 1)
    await settle(connection, [stored, short])
    account = await audited(connection, sent(*orders, stored, short))
    assert account.is_clean
    assert (account.stored, account.processed, account.failed) == (10, 8, {"out_of_stock": 2})
    await write(connection, [undecided_one], [])
    account = await audited(connection, sent(*orders, stored, short, undecided_one))
    assert account.lost == {undecided_one.id: "no verdict"}
    other = msgspec.structs.replace(basket((B, 1), (A, 2)), id=stored.id)
    account = await audited(connection, sent(*orders, other, short, unknown=(orders[0],)))
    assert list(account.lost) == [stored.id]


async def test_reference_and_metadata_come_back_as_they_were_sent(connection: Connection) -> None:
    detailed = [order(C, **it) for it in nasty_details(50)] + [basket((A, 1), (B, 1), **nasty_details(1)[0])]
    await settle(connection, detailed)
    account = await audited(connection, sent(*detailed))
    assert account.is_clean
    assert account.processed == 51


@pytest.mark.parametrize(
    "change",
    [
        "reference = reference || ' '",
        "reference = NULL",
        "metadata = NULL",
        'metadata = \'{"channel": "app", "cart": "c-1"}\'',
        'metadata = \'{"cart": "c-1", "channel": "App"}\'',
    ],
)
async def test_an_order_whose_details_were_altered_is_lost(connection: Connection, change: str) -> None:
    it = order(A, reference="4711-a", metadata={"cart": "c-1", "channel": "app"})
    await settle(connection, [it])
    assert (await audited(connection, sent(it))).is_clean
    await connection.execute(f"UPDATE orders SET {change} WHERE id = $1", it.id)
    assert list((await audited(connection, sent(it))).lost) == [it.id]


@pytest.mark.parametrize("line", [0, 1, 2])
async def test_a_basket_without_one_of_its_lines_is_half(connection: Connection, line: int) -> None:
    it = basket((A, 1), (B, 1), (C, 1))
    await settle(connection, [it])
    await connection.execute("DELETE FROM orders WHERE id = $1 AND line = $2", it.id, line)
    account = await audited(connection, sent(it))
    assert (account.half, account.lost) == ([it.id], {})
    assert not account.is_clean


async def test_a_cancelled_order_took_nothing_or_gave_it_back(connection: Connection, orders: list[Order]) -> None:
    early, late = order(B, 1), basket((A, 1), (B, 1))
    await restock(connection, A, 1)
    await restock(connection, B, 1)
    await settle(connection, [late])
    await write(connection, [early], [])
    accepted = sent(*orders, early, late)
    accepted.cancelled = {early.id, late.id}
    assert await unsettled(connection, [late.id, early.id]) == [late.id, early.id]
    await cancel_now(connection, cancellation(early), cancellation(late))
    account = await audited(connection, accepted)
    assert account.is_clean
    assert (account.cancelled, account.processed) == (2, 7)
    assert await drain(connection, [late.id, early.id], lambda _: None, 0.1, unsettled) == []
    await connection.execute(
        "UPDATE stock_adjustments SET delta = 2 WHERE order_id = $1 AND product_id = $2", late.id, A
    )
    await connection.execute("UPDATE products SET qty = qty + 1 WHERE id = $1", A)
    assert (await audited(connection, accepted)).oversold == [Stock(A, 2, 13, 11, 11, 2, 1)]
