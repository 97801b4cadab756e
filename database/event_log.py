"""Reads the event log: every verdict, cancellation and parked order, by offset. migrations/0007 and 0016 keep it.

Offsets begin with 1 and have no gaps. An event gets its offset after its commit, in an order that respects each order's
own history. So a reader that asks for everything after the last offset that it has seen misses nothing: whatever
commits later gets a greater offset. Nobody has to be told which transactions are open.

    number ──▶ the last offset        read(after, upto) ──▶ the events between
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg
import msgspec

from database.sessions import PooledConnection
from pipeline.contract.cancellations import IS_EFFECTIVE
from pipeline.contract.order_events import EventType, OrderEvent, encode_cursor
from pipeline.contract.order_rows import selected_members
from pipeline.contract.order_view import OrderStatus, view
from pipeline.contract.orders import client_in
from pipeline.contract.stages import Stage

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PooledConnection"

NUMBER_AT_ONCE = 5_000
"""Batches that one call numbers, 3 µs each. A batch is a worker's transaction: 5,000 are minutes of full load."""
# An order takes some 400. A longer body is not an order that could be decoded.
_MAX_PARKED_BYTES = 64 * 1024

_MEMBERS = selected_members("o")
# The batch of the first event, and those that begin before the last. The batches of one page are at most as many as its
# events.
_BATCHES = """
    SELECT first_offset, orders, letters, cancelled FROM event_batches WHERE first_offset <= $2 AND first_offset >= (
        SELECT first_offset FROM event_batches WHERE first_offset <= $1 + 1 ORDER BY first_offset DESC LIMIT 1
    )
"""
# An order that was discarded before it was stored has no row; its letter says whose it is. The event of a PROCESSED
# order shows it as it was then, even if it was cancelled since.
_VERDICTS = f"""
    SELECT v.first_offset + v.place - 1 AS event_offset, l.decided_at AS happened_at,
        1 + (
            SELECT count(*) FROM dead_letters d
            WHERE d.order_id = v.order_id AND d.event_offset < v.first_offset + v.place - 1
        )::integer AS sequence,
        l.order_id::text AS id, l.outcome AS status, true AS final, l.reason, l.failed_line, l.units_left, o.client,
        {_MEMBERS}, c.settled_at AS cancelled_at, c.reason AS cancel_reason,
        CASE WHEN o.id IS NULL THEN (
            SELECT d.body FROM dead_letters d
            WHERE d.order_id = v.order_id AND octet_length(d.body) <= {_MAX_PARKED_BYTES} ORDER BY d.id DESC LIMIT 1
        ) END AS parked
    FROM (
        SELECT b.first_offset, u.order_id, u.place
        FROM batches b CROSS JOIN LATERAL unnest(b.orders) WITH ORDINALITY AS u (order_id, place)
        WHERE b.first_offset + u.place - 1 BETWEEN $1 + 1 AND $2
    ) AS v
    JOIN stock_ledger l ON l.order_id = v.order_id LEFT JOIN orders o ON o.id = v.order_id AND o.line = 0
    LEFT JOIN cancellations c ON c.order_id = v.order_id AND c.{IS_EFFECTIVE} AND l.outcome = '{OrderStatus.CANCELLED}'
"""
# It follows the event of its verdict, unless the verdict is older than the log.
_CANCELLATIONS = f"""
    SELECT v.first_offset + v.place - 1, c.settled_at,
        1 + (l.decided_at >= (SELECT began_at FROM event_log))::integer + (
            SELECT count(*) FROM dead_letters d
            WHERE d.order_id = v.order_id AND d.event_offset < v.first_offset + v.place - 1
        )::integer,
        c.order_id::text, '{OrderStatus.CANCELLED}', true, NULL, NULL, NULL, o.client,
        {_MEMBERS}, c.settled_at, c.reason, NULL
    FROM (
        SELECT b.first_offset, u.order_id, u.place
        FROM batches b CROSS JOIN LATERAL unnest(b.cancelled) WITH ORDINALITY AS u (order_id, place)
        WHERE b.first_offset + u.place - 1 BETWEEN $1 + 1 AND $2
    ) AS v
    JOIN cancellations c ON c.order_id = v.order_id AND c.{IS_EFFECTIVE}
    JOIN stock_ledger l ON l.order_id = v.order_id LEFT JOIN orders o ON o.id = v.order_id AND o.line = 0
"""
# As GET showed the order then: one that could not be stored has no members.
_LETTERS = f"""
    SELECT d.event_offset, d.first_seen_at, d.event_sequence, d.order_id::text, 'PARKED', false, d.reason, NULL, NULL,
        o.client, {_MEMBERS}, NULL, NULL,
        CASE WHEN d.stage = '{Stage.PERSIST}' AND octet_length(d.body) <= {_MAX_PARKED_BYTES} THEN d.body END
    FROM batches b CROSS JOIN LATERAL unnest(b.letters) AS u (id)
    JOIN dead_letters d ON d.id = u.id AND d.event_offset BETWEEN $1 + 1 AND $2
    LEFT JOIN orders o ON o.id = d.order_id AND o.line = 0 AND d.stage = '{Stage.STOCK}'
"""
_READ = f"""
    WITH batches AS MATERIALIZED ({_BATCHES})
    {_VERDICTS} UNION ALL {_CANCELLATIONS} UNION ALL {_LETTERS} ORDER BY event_offset
"""
_END = "SELECT id, last_offset FROM event_log"
_NUMBER = "SELECT id, number_events($1) AS last_offset FROM event_log"
# numbered_at never falls as offsets grow, and never lies before the commit.
# One statement: of two, the second would see events that were numbered after the first. IS NOT NULL: see the index.
_AT = """
    SELECT id, coalesce((
        SELECT first_offset - 1 FROM event_batches WHERE first_offset IS NOT NULL AND numbered_at >= $1
        ORDER BY numbered_at, first_offset LIMIT 1
    ), last_offset) AS last_offset FROM event_log
"""
_TYPES = {
    OrderStatus.PROCESSED: EventType.PROCESSED,
    OrderStatus.FAILED: EventType.FAILED,
    OrderStatus.CANCELLED: EventType.CANCELLED,
    "PARKED": EventType.PARKED,
}


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The log, as it ended at one moment."""

    log_id: int
    last_offset: int


class LoggedEvent(msgspec.Struct, frozen=True):
    offset: int
    client: str | None
    """Whose order it is; None: nobody's, or unknown. Then only a client that sees all may see the event."""
    event: OrderEvent

    @property
    def products(self) -> list[str]:
        return self.event.order.products


# ── I/O below


async def end(session: Session) -> LogEnd:
    """The end of the log. Events that are committed and not numbered yet are behind it."""
    row: Any = await session.fetchrow(_END)  # Any, because the table always has its row
    return LogEnd(row["id"], row["last_offset"])


async def number(session: Session, most: int = NUMBER_AT_ONCE, *, timeout_s: float | None = None) -> LogEnd:
    """Number the events that wait, those of `most` batches at once, and return the end of the log. Call it outside a
    transaction. `timeout_s`: None: the session's own.
    """
    row: Any = await session.fetchrow(_NUMBER, most, timeout=timeout_s)
    return LogEnd(row["id"], row["last_offset"])


async def end_at(session: Session, moment: datetime) -> LogEnd:
    """The end of the log at `moment`: everything that was committed then or later lies behind it; some earlier events
    may, too.
    """
    row: Any = await session.fetchrow(_AT, moment)
    return LogEnd(row["id"], row["last_offset"])


async def read(session: Session, log_id: int, after: int, upto: int) -> list[LoggedEvent]:
    """The events with offsets from `after` + 1 to `upto`, which may not be behind the end of the log.

    An event whose verdict or letter an operator has deleted is left out.
    """
    if upto <= after:
        return []
    return [_logged(log_id, row) for row in await session.fetch(_READ, after, upto)]


def _logged(log_id: int, row: Any) -> LoggedEvent:
    order = view(row)
    event_type = _TYPES[order.status]
    if event_type is EventType.PARKED:
        order.status = OrderStatus.FAILED
    offset, sequence = row["event_offset"], row["sequence"]
    parked = row["parked"]
    client = client_in(parked, order.id) if parked is not None else row["client"]
    cursor = encode_cursor(log_id, offset)
    event = OrderEvent(f"{order.id}.{sequence}", cursor, event_type, sequence, row["happened_at"], order)
    return LoggedEvent(offset, client, event)
