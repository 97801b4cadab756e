"""The audit of cancellations: each has the effect that it says, once; and `dead discard` leaves none waiting."""

from collections.abc import AsyncIterator, Callable

import pytest

from database.connection import Connection
from database.dead_letters import DeadLetter, park
from persist_worker.write import prepare, write
from pipeline.contract.orders import AnyOrder, Order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from product_consumer.ledger import record
from proof.audit_sql import audit
from proof.offenders import CANCEL_DIFFERS, CANCEL_WAITS, EVENT_MISSING, Offender
from stack.operate.dead.discard import Discarded, discard
from stack.operate.dead.sql import Filters
from tests.support.data.orders import basket, new_product_id, order
from tests.support.scenes.audited import audited
from tests.support.scenes.cancelling import cancel_now, cancellation, outcomes, verdict_of
from tests.support.services.workers import add_product, connected

A, B = (new_product_id() for _ in range(2))
_ANOTHER_PRODUCT = """
    INSERT INTO stock_adjustments (product_id, delta, reason, order_id)
    SELECT p.id, 1, 'cancellation', a.order_id FROM stock_adjustments a JOIN products p ON p.id <> a.product_id
    WHERE a.order_id IS NOT NULL
"""
_MOVED = """
    UPDATE stock_adjustments SET product_id = p.id FROM products p WHERE order_id IS NOT NULL AND product_id <> p.id
"""


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        for product_id in (A, B):
            await add_product(it, product_id, 10)
        yield it


@pytest.fixture
async def returned(connection: Connection) -> Order:
    """An order that was PROCESSED and then cancelled; there is one cancelled before its verdict, and one that waits."""
    it, early, waits = order(A, 3), order(B, 3), order(B)
    await write(connection, [it, early], [])
    await record(connection, [it], [])
    await cancel_now(connection, *map(cancellation, (it, early, waits)))
    return it


async def found(connection: Connection) -> list[tuple[str, str]]:
    return [(it.check, it.id) for it in (await audited(connection, lag_s=-1))[0]]


async def test_cancelled_orders_are_counted_and_nothing_is_wrong_with_them(
    connection: Connection, returned: Order
) -> None:
    offenders, counts = await audited(connection, lag_s=-1)
    assert offenders == []
    assert (counts.orders, counts.processed, counts.failed, counts.cancelled, counts.pending) == (2, 0, 0, 2, 0)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE cancellations SET outcome = 'before_verdict' WHERE outcome = 'returned'",
        "DELETE FROM cancellations WHERE outcome = 'returned'",
        "DELETE FROM stock_adjustments WHERE order_id IS NOT NULL",
        "UPDATE stock_adjustments SET delta = 2 WHERE order_id IS NOT NULL",
        _ANOTHER_PRODUCT,
        _MOVED,
    ],
)
async def test_a_cancellation_that_did_something_else_than_it_says_is_found(
    connection: Connection, returned: Order, damage: str
) -> None:
    await connection.execute(damage)
    assert (CANCEL_DIFFERS, returned.id) in await found(connection)


async def test_a_cancelled_verdict_without_a_cancellation_is_found(connection: Connection, returned: Order) -> None:
    await connection.execute("DELETE FROM cancellations WHERE outcome = 'before_verdict'")
    assert [check for check, _ in await found(connection)] == [CANCEL_DIFFERS]


async def test_a_cancellation_without_its_event_is_found(connection: Connection, returned: Order) -> None:
    await connection.execute("DELETE FROM event_batches WHERE cancelled IS NOT NULL")
    offenders: list[Offender] = []
    await audit(connection, 60, offenders.append)
    assert (EVENT_MISSING, returned.id) in [(it.check, it.id) for it in offenders]


async def test_a_cancellation_that_waits_although_its_order_is_decided_is_found_after_the_lag(
    connection: Connection,
) -> None:
    await write(connection, [it := order(A)], [])
    await record(connection, [it], [])
    await connection.execute(
        "INSERT INTO cancellations (order_id, client, sees_all, requested_at) VALUES ($1, '', true, now())", it.id
    )
    assert await found(connection) == [(CANCEL_WAITS, it.id)]
    assert (await audited(connection, lag_s=60))[0] == []


@pytest.mark.parametrize("stage", [Stage.PERSIST, Stage.STOCK])
@pytest.mark.parametrize("made", [lambda: order(A), lambda: basket((B, 2), (A, 1))], ids=["an order", "a basket"])
async def test_a_discarded_order_is_failed_and_its_cancellation_comes_too_late(
    connection: Connection, stage: Stage, made: Callable[[], AnyOrder]
) -> None:
    await cancel_now(connection, cancellation(it := made()))
    if stage is Stage.STOCK:
        await write(connection, [it], [])
    await park(connection, stage, [DeadLetter.of_order(it, Reason.INVALID_DATA, "")])
    await discard(connection, Filters(), "no use", Discarded())
    assert (await verdict_of(connection, it), await outcomes(connection, it)) == ("FAILED", ["too_late"])
    await cancel_now(connection, cancellation(it, "later"))
    assert await outcomes(connection, it) == ["too_late", "too_late"]
    assert await found(connection) == []
