"""Compares the event log with what it tells of: every verdict, cancelled and parked order once, offsets without gaps.

Pairs both by their ids, in one snapshot. Verdicts and letters from before the log began have no event.

Verdicts are many, so first their sums are compared: how many ids, and two sums of 64-bit hashes of them. Ids that
differ have the same sums once in 2^128 cases. Only if the sums differ are verdicts and events paired. That takes five
times longer, 2.7 against 0.5 s for a million, and from some millions on it spills to the disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from proof.accounting_sql import Connection
from proof.offenders import Logged, Offender, misplaced, misreported

_BEGAN = "(SELECT began_at FROM event_log)"
_LOGGED = "(SELECT u.id FROM event_batches b, unnest(b.orders) AS u (id)) AS logged"
_DECIDED = f"(SELECT order_id AS id FROM stock_ledger WHERE decided_at >= {_BEGAN}) AS decided"
_SUMS = "ROW (count(*), sum(uuid_hash_extended(id, 0)), sum(uuid_hash_extended(id, 1)))"
_VERDICTS = f"""
    SELECT 'verdict', coalesce(e.id, l.order_id)::text, coalesce(e.events, 0), l.order_id IS NOT NULL
    FROM (SELECT id, count(*) AS events FROM {_LOGGED} GROUP BY id) e
    FULL JOIN (SELECT id AS order_id FROM {_DECIDED}) l ON l.order_id = e.id
    WHERE (SELECT {_SUMS} FROM {_LOGGED}) IS DISTINCT FROM (SELECT {_SUMS} FROM {_DECIDED})
      AND (e.events IS DISTINCT FROM 1 OR l.order_id IS NULL)
"""
_LETTERS = f"""
    SELECT 'dead letter', coalesce(e.id, d.id)::text, coalesce(e.events, 0), d.id IS NOT NULL
    FROM (SELECT u.id, count(*) AS events FROM event_batches b, unnest(b.letters) AS u (id) GROUP BY u.id) e
    FULL JOIN (
        SELECT id FROM dead_letters WHERE order_id IS NOT NULL AND first_seen_at >= {_BEGAN}
    ) d ON d.id = e.id
    WHERE e.events IS DISTINCT FROM 1 OR d.id IS NULL
"""
_CANCELLATIONS = f"""
    SELECT 'cancellation', coalesce(e.id, c.order_id)::text, coalesce(e.events, 0), c.order_id IS NOT NULL
    FROM (SELECT u.id, count(*) AS events FROM event_batches b, unnest(b.cancelled) AS u (id) GROUP BY u.id) e
    FULL JOIN (
        SELECT order_id FROM cancellations WHERE outcome = 'returned' AND settled_at >= {_BEGAN}
    ) c ON c.order_id = e.id
    WHERE e.events IS DISTINCT FROM 1 OR c.order_id IS NULL
"""
# The end of the log is where the next batch would begin.
_OFFSETS = """
    SELECT id, expected, first_offset FROM (
        SELECT id, first_offset, 1 + coalesce(lag(first_offset + size - 1) OVER (ORDER BY first_offset), 0) AS expected
        FROM (
            SELECT id, first_offset, size FROM event_batches WHERE first_offset IS NOT NULL
            UNION ALL SELECT 0, last_offset + 1, 0 FROM event_log
        ) AS numbered
    ) AS found WHERE first_offset <> expected
"""
_FETCH_ROWS = 10_000


async def audit_events(connection: Connection) -> AsyncIterator[Offender]:
    """What is wrong with the log. Runs in the caller's transaction."""
    for query in (_VERDICTS, _CANCELLATIONS, _LETTERS):
        async for row in connection.cursor(query, prefetch=_FETCH_ROWS):
            yield misreported(Logged(*row))
    async for row in connection.cursor(_OFFSETS, prefetch=_FETCH_ROWS):
        yield misplaced(*row)
