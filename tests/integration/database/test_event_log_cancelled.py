"""P11 for cancelled orders: `order.cancelled` comes once, after what went before it, and changes no earlier event."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from database import event_log
from database.connection import Connection
from database.dead_letters import DeadLetter, park
from database.event_log import LoggedEvent
from persist_worker.write import prepare, write
from pipeline.contract.order_events import EventType
from pipeline.contract.orders import Order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from product_consumer.ledger import record
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.cancelling import by, cancel_now, cancellation
from tests.support.services.workers import add_product, connected

A = new_product_id()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        await add_product(it, A, 10)
        yield it


async def store(connection: Connection, *orders: Order) -> None:
    await write(connection, list(orders), [])


async def decide(connection: Connection, *orders: Order) -> None:
    await record(connection, list(orders), [])


async def park_it(connection: Connection, it: Order, stage: Stage) -> None:
    await park(connection, stage, [DeadLetter.of_order(it, Reason.INVALID_DATA, "")])


async def everything(connection: Connection) -> list[LoggedEvent]:
    end = await event_log.number(connection)
    return await event_log.read(connection, end.log_id, 0, end.last_offset)


def told(events: Sequence[LoggedEvent]) -> list[tuple[int, str, int, str]]:
    return [(it.offset, it.event.order.id, it.event.sequence, it.event.type) for it in events]


async def test_p11_an_order_cancelled_before_its_verdict_has_one_event(connection: Connection) -> None:
    it = order(A, client="shop")
    await store(connection, it)
    await cancel_now(connection, cancellation(it, "shop", reason="too late"))
    (found,) = await everything(connection)
    assert told([found]) == [(1, it.id, 1, EventType.CANCELLED)]
    shown = found.event.order
    assert (found.client, found.products) == ("shop", [A])
    assert (shown.status, shown.final, shown.reason, shown.cancel_reason) == ("CANCELLED", True, None, "too late")
    assert shown.cancelled_at == await _settled_at(connection, it)


async def test_p11_a_cancelled_verdict_of_the_ledger_is_the_same_event(connection: Connection) -> None:
    await cancel_now(connection, cancellation(it := order(A)))
    await store(connection, it)
    await decide(connection, it, other := order(A))
    assert [(*rest, kind) for _, *rest, kind in told(await everything(connection))] == [
        (it.id, 1, EventType.CANCELLED),
        (other.id, 1, EventType.PROCESSED),
    ]


async def test_p11_a_returned_order_has_a_second_event_and_its_first_stays_as_it_was(connection: Connection) -> None:
    await store(connection, first := order(A), second := order(A, client="shop"))
    await decide(connection, first, second)
    before = await everything(connection)
    await cancel_now(connection, cancellation(second), cancellation(first))
    await cancel_now(connection, cancellation(second), cancellation(first))
    events = await everything(connection)
    assert events[:2] == before
    assert told(events[2:]) == [
        (offset, it.id, 2, EventType.CANCELLED) for offset, it in enumerate(sorted((first, second), key=_id), 3)
    ]
    shown = {it.event.order.id: it for it in events[2:]}[second.id]
    assert (shown.client, shown.products, shown.event.at) == ("shop", [A], await _settled_at(connection, second))
    assert (shown.event.order.status, shown.event.order.quantity) == ("CANCELLED", 1)


async def test_what_changes_nothing_is_no_event(connection: Connection) -> None:
    await store(connection, failed := order(A, 99), mine := order(A, client="shop"))
    await decide(connection, failed, mine)
    before = await everything(connection)
    await cancel_now(connection, cancellation(failed), by("stranger", mine))
    assert await everything(connection) == before


async def test_p11_sequences_have_no_gaps_through_parking_replay_verdict_and_cancellation(
    connection: Connection,
) -> None:
    await park_it(connection, it := order(A), Stage.PERSIST)
    await connection.execute("UPDATE dead_letters SET replayed_at = now()")
    await store(connection, it)
    await decide(connection, it)
    await cancel_now(connection, cancellation(it))
    await park_it(connection, order(A, 7, id=it.id), Stage.PERSIST)  # another order, under the same id
    types = [EventType.PARKED, EventType.PROCESSED, EventType.CANCELLED, EventType.PARKED]
    assert told(await everything(connection)) == [(at, it.id, at, kind) for at, kind in enumerate(types, 1)]


@pytest.mark.parametrize("numbered", range(4))
async def test_p11_sequences_do_not_depend_on_when_the_events_are_numbered(
    connection: Connection, numbered: int
) -> None:
    """A letter between the verdict and the cancellation, and one after both."""
    steps: list[Callable[[Order], Awaitable[object]]] = [
        lambda it: decide(connection, it),
        lambda it: park_it(connection, order(A, 7, id=it.id), Stage.PERSIST),
        lambda it: cancel_now(connection, cancellation(it)),
        lambda it: park_it(connection, order(A, 8, id=it.id), Stage.PERSIST),
    ]
    await store(connection, it := order(A))
    for at, step in enumerate(steps):
        await step(it)
        if at == numbered:
            await event_log.number(connection)
    types = [EventType.PROCESSED, EventType.PARKED, EventType.CANCELLED, EventType.PARKED]
    assert told(await everything(connection)) == [(at, it.id, at, kind) for at, kind in enumerate(types, 1)]


async def test_a_cancelled_order_that_was_decided_before_the_log_began_has_one_event(connection: Connection) -> None:
    await store(connection, it := order(A))
    await decide(connection, it)
    await connection.execute("DELETE FROM event_batches; UPDATE event_log SET began_at = clock_timestamp()")
    await cancel_now(connection, cancellation(it))
    assert told(await everything(connection)) == [(1, it.id, 1, EventType.CANCELLED)]


def _id(it: Order) -> str:
    return it.id


async def _settled_at(connection: Connection, it: Order) -> object:
    return await connection.fetchval("SELECT settled_at FROM cancellations WHERE order_id = $1", it.id)
