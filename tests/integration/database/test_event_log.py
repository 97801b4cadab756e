"""P11: the log has every event once, none before its commit, and an order's own events in their order."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import cast
from uuid import uuid4

import pytest

from database import event_log
from database.connection import Connection
from database.dead_letters import DeadLetter, park
from database.event_log import LogEnd, LoggedEvent
from pipeline.contract.order_events import EventType, decode_cursor
from pipeline.contract.orders import Order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from product_consumer.ledger import record
from tests.support.data.orders import new_product_id, order
from tests.support.services.workers import connected

A = new_product_id()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it


async def decide(connection: Connection, *orders: Order) -> None:
    await record(connection, list(orders), [])


async def park_it(connection: Connection, it: Order, stage: Stage = Stage.STOCK, detail: str = "") -> None:
    letter = DeadLetter.of_order(it, Reason.INVALID_DATA, detail)
    async with connection.transaction():
        await park(connection, stage, [letter])


async def replayed(connection: Connection) -> None:
    await connection.execute("UPDATE dead_letters SET replayed_at = now() WHERE replayed_at IS NULL")


async def everything(connection: Connection) -> list[LoggedEvent]:
    end = await event_log.number(connection)
    return await event_log.read(connection, end.log_id, 0, end.last_offset)


def told(events: Sequence[LoggedEvent]) -> list[tuple[int, str, int, str]]:
    return [(it.offset, it.event.order.id, it.event.sequence, it.event.type) for it in events]


async def test_p11_each_verdict_and_each_parked_order_is_an_event(connection: Connection) -> None:
    first, second, third = order(A), order(A), order(A, client="shop")
    await decide(connection, first, second)
    await park_it(connection, third)
    events = await everything(connection)
    assert told(events) == [
        (1, first.id, 1, EventType.FAILED),
        (2, second.id, 1, EventType.FAILED),
        (3, third.id, 1, EventType.PARKED),
    ]
    assert events[0].event.order.reason == Reason.UNKNOWN_PRODUCT
    assert (events[2].event.order.status, events[2].event.order.final) == ("FAILED", False)
    assert [it.event.id for it in events] == [f"{it.id}.1" for it in (first, second, third)]


async def test_p11_an_order_that_is_parked_and_replayed_counts_its_events_without_gaps(connection: Connection) -> None:
    it, other = order(A), order(A)
    await park_it(connection, it, Stage.PERSIST)
    await replayed(connection)
    await park_it(connection, it)
    await replayed(connection)
    await decide(connection, other, it)
    events = [event for event in await everything(connection) if event.event.order.id == it.id]
    assert [(event.event.sequence, event.event.type) for event in events] == [
        (1, EventType.PARKED),
        (2, EventType.PARKED),
        (3, EventType.FAILED),
    ]


async def test_p11_an_order_parked_under_the_id_of_a_decided_one_counts_after_it(connection: Connection) -> None:
    it = order(A)
    await decide(connection, it)
    await park_it(connection, order(A, 7, id=it.id), Stage.PERSIST)
    assert [event.event.sequence for event in await everything(connection)] == [1, 2]


async def test_p11_many_orders_parked_and_given_up_behind_an_outage_are_numbered_in_seconds(
    connection: Connection,
) -> None:
    """Nobody numbered meanwhile. Each letter has a verdict behind it, and many more verdicts wait."""
    await connection.execute(
        """
        CREATE TEMPORARY TABLE parked AS
        SELECT gen_random_uuid() AS id, n / 250 AS batch FROM generate_series(1, 20000) n;
        DO $$ BEGIN FOR it IN 0..80 LOOP
            INSERT INTO dead_letters (stage, order_id, reason, detail, body)
            SELECT 'stock', id, 'invalid_data', '', uuid_send(id) FROM parked WHERE batch = it;
            INSERT INTO stock_ledger (order_id, outcome, reason) SELECT id, 'FAILED', 'x' FROM parked WHERE batch = it;
        END LOOP; END $$;
        INSERT INTO event_batches (orders, size)
        SELECT ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 250) WHERE n > 0), 250
        FROM generate_series(1, 800) n
        """
    )
    end = await event_log.number(connection, 100, timeout_s=15)
    assert end.last_offset >= 20_000
    while (later := await event_log.number(connection, timeout_s=15)) != end:
        end = later
    assert end.last_offset == 2 * 20_000 + 800 * 250
    assert await connection.fetchval("SELECT count(*) FROM dead_letters WHERE event_sequence = 1") == 20_000


async def test_p11_an_order_parked_again_and_again_counts_its_letters_over_several_calls(
    connection: Connection,
) -> None:
    """Before its verdict, and after it."""
    it = order(A)
    for number in range(6):
        if number == 3:
            await decide(connection, it)
        await park_it(connection, order(A, number + 1, id=it.id), detail=str(number))
        if number % 2:
            await event_log.number(connection)
    assert [event.event.sequence for event in await everything(connection)] == [1, 2, 3, 4, 5, 6, 7]


async def test_p11_a_transaction_that_is_open_is_passed_by_no_reader(connection: Connection, database_url: str) -> None:
    """It commits last, so it is numbered last, and the others do not wait for it."""
    early, late = order(A), order(A)
    async with connected(database_url) as slow:
        transaction = slow.transaction()
        await transaction.start()
        await record(slow, [late], [])
        await decide(connection, early)
        assert told(await everything(connection)) == [(1, early.id, 1, EventType.FAILED)]
        await transaction.commit()
    assert told(await everything(connection)) == [
        (1, early.id, 1, EventType.FAILED),
        (2, late.id, 1, EventType.FAILED),
    ]


async def test_p11_what_is_rolled_back_is_no_event(connection: Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await record(connection, [order(A)], [])
    await transaction.rollback()
    await decide(connection, kept := order(A))
    assert told(await everything(connection)) == [(1, kept.id, 1, EventType.FAILED)]


async def test_p11_many_that_number_at_once_give_each_event_one_offset(database_url: str) -> None:
    """While others commit: offsets are 1, 2, 3 …, and a reader that has seen offset N has seen all up to it."""
    many = [[order(A) for _ in range(5)] for _ in range(40)]
    seen: list[list[int]] = [[] for _ in range(4)]

    async def write(batches: list[list[Order]]) -> None:
        async with connected(database_url) as writer:
            for batch in batches:
                await decide(writer, *batch)

    async def follow(offsets: list[int]) -> None:
        async with connected(database_url) as reader:
            while len(offsets) < 200:
                end = await event_log.number(reader)
                after = offsets[-1] if offsets else 0
                offsets += [it.offset for it in await event_log.read(reader, end.log_id, after, end.last_offset)]

    async with asyncio.timeout(60):
        await asyncio.gather(*(write(many[part::4]) for part in range(4)), *map(follow, seen))
    assert seen == [list(range(1, 201))] * 4


async def test_p11_a_page_may_begin_and_end_within_a_batch(connection: Connection) -> None:
    batch = [order(A, at_ms=place) for place in range(5)]
    await decide(connection, *batch)
    await decide(connection, last := order(A))
    end = await event_log.number(connection)
    page = await event_log.read(connection, end.log_id, 1, 4)
    assert [it.event.order.id for it in page] == [it.id for it in batch[1:4]]
    rest = await event_log.read(connection, end.log_id, 4, end.last_offset)
    assert [it.event.order.id for it in rest] == [batch[4].id, last.id]
    assert await event_log.read(connection, end.log_id, end.last_offset, end.last_offset) == []
    assert [decode_cursor(it.event.cursor) for it in page] == [(end.log_id, offset) for offset in (2, 3, 4)]


async def test_p11_whose_event_it_is_is_known_also_of_an_order_that_was_never_stored(connection: Connection) -> None:
    it = order(A, client="shop")
    await park_it(connection, it, Stage.PERSIST)
    (parked,) = await everything(connection)
    assert (parked.client, parked.products) == ("shop", [])
    await connection.execute(
        "INSERT INTO stock_ledger (order_id, outcome, reason) VALUES ($1, 'FAILED', 'invalid_data')", it.id
    )
    given_up = (await everything(connection))[1]
    assert (given_up.client, given_up.event.sequence, given_up.event.order.final) == ("shop", 2, True)


async def test_p11_a_letter_that_names_no_order_is_no_event(connection: Connection) -> None:
    async with connection.transaction():
        await park(connection, Stage.PERSIST, [DeadLetter(None, Reason.UNREADABLE, "", b"x")])
    assert await everything(connection) == []


async def test_p11_from_a_time_on_is_everything_that_was_committed_since(connection: Connection) -> None:
    await decide(connection, order(A))
    await event_log.number(connection)
    since: datetime = await connection.fetchval("SELECT clock_timestamp()")
    await decide(connection, order(A))
    end = await event_log.number(connection)
    assert await event_log.end_at(connection, since) == LogEnd(end.log_id, 1)
    assert await event_log.end_at(connection, datetime(2020, 1, 1, tzinfo=UTC)) == LogEnd(end.log_id, 0)
    assert await event_log.end_at(connection, datetime(2999, 1, 1, tzinfo=UTC)) == end


class Busy:
    """A session in a log that goes on: after each of its statements, another event is committed and numbered."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetchrow(self, query: str, *values: object) -> object:
        row = await self._connection.fetchrow(query, *values)
        await self._go_on()
        return row

    async def fetchval(self, query: str, *values: object) -> object:
        value = await self._connection.fetchval(query, *values)
        await self._go_on()
        return value

    async def _go_on(self) -> None:
        await decide(self._connection, order(A))
        await event_log.number(self._connection)


async def test_p11_from_a_time_on_skips_nothing_that_is_numbered_meanwhile(connection: Connection) -> None:
    """One statement decides between the first event since then and the end of the log."""
    await decide(connection, order(A))
    await event_log.number(connection)
    since: datetime = await connection.fetchval("SELECT clock_timestamp()")
    assert (await event_log.end_at(cast("Connection", Busy(connection)), since)).last_offset == 1


async def test_p11_from_a_time_on_is_found_by_the_index(connection: Connection) -> None:
    """However long the log is: a client may ask for any time."""
    await connection.execute("SET enable_seqscan = off")
    plan = await connection.fetch(f"EXPLAIN {event_log._AT}", datetime(2020, 1, 1, tzinfo=UTC))
    assert "event_batches_by_time" in str(plan)


async def test_p11_what_one_call_numbers_has_one_time(connection: Connection) -> None:
    """So times never fall as offsets grow, in whatever order PostgreSQL visits the batches."""
    for _ in range(20):
        await decide(connection, order(A))
    await event_log.number(connection)
    assert await connection.fetchval("SELECT count(DISTINCT numbered_at) FROM event_batches") == 1


async def test_p11_an_old_worker_and_psql_write_events_too(connection: Connection) -> None:
    """The log is the database's own: nothing has to remember it."""
    ids = [str(uuid4()) for _ in range(3)]
    await connection.execute(
        "INSERT INTO stock_ledger (order_id, outcome, reason) SELECT unnest($1::uuid[]), 'FAILED', 'x'", ids
    )
    assert [it.event.order.id for it in await everything(connection)] == ids


async def test_p11_a_temporary_table_of_the_same_name_takes_no_event(connection: Connection) -> None:
    """Whoever may make one could otherwise keep events from everybody."""
    await connection.execute("CREATE TEMPORARY TABLE event_batches (orders uuid[], letters bigint[], size integer)")
    await decide(connection, it := order(A))
    await park_it(connection, parked := order(A))
    assert await connection.fetchval("SELECT count(*) FROM pg_temp.event_batches") == 0
    await connection.execute("DROP TABLE pg_temp.event_batches")
    assert [event.event.order.id for event in await everything(connection)] == [it.id, parked.id]


async def test_only_those_who_follow_the_log_may_number_it(connection: Connection) -> None:
    for function in (
        "number_events(integer)",
        "number_letters(bigint, timestamptz)",
        "log_verdicts()",
        "log_letters()",
    ):
        query = "SELECT has_function_privilege('public', $1, 'EXECUTE')"
        assert not await connection.fetchval(query, function), function
