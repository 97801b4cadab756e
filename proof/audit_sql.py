"""The conservation audit: its queries, and the loop that asks them. proof.offenders interprets the answers.

It reads everything each time, from one snapshot: no watermark, no table of what was checked before. A watermark would
have to cover a row that is older than it and commits later. A timestamp says when a row was written, not when others
can see it. And an audit that trusts its predecessor misses what was damaged since. A watermark is not needed either:
the audit costs 1.3 to 2.4 microseconds of CPU an order, on one core (benchmarks/experiments/audit_time.py).

The audit blocks nobody: it only reads, and takes the lock that every SELECT takes. It reads through cursors, so
PostgreSQL runs each query in one process, and offenders are passed on as they are found. Its cost to others is a
snapshot that lives as long as the audit. Until it ends, VACUUM cannot clean up rows updated meanwhile, those of
products.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass

import asyncpg

from proof.accounting_sql import Connection, half_baskets
from proof.events_sql import audit_events
from proof.offenders import (
    DECIDED_TWICE,
    STORED_TWICE,
    CancelTrace,
    CancelWait,
    Offender,
    Replay,
    StockMismatch,
    Trace,
    cancelled_otherwise,
    half_basket,
    is_forgotten,
    is_late,
    judge,
    lost,
    repeated,
    unbalanced,
    unsettled,
)
from proof.sessions import COMMAND_SETTINGS
from proof.stock import UNBALANCED, balances

SESSION = {
    **COMMAND_SETTINGS,
    "application_name": "verify",
    # Only a change of a table itself, as in a migration, can make the audit wait.
    "lock_timeout": "30s",
    # The audit is idle in its transaction while the reader of its output is slow.
    "idle_in_transaction_session_timeout": "0",
    # Memory of a sort before it spills to disk (a hash: twice that); by default 4 MB. One runs at a time.
    "work_mem": "64MB",
    # PostgreSQL joins orders and verdicts along their primary keys, or by a hash of all verdicts. Where ids follow
    # time, its default of 0.005 makes the hash look 8 % cheaper. But the hash takes 2.8 times the CPU (2.5 against
    # 0.9 s, for 2,000,000 orders). Where ids are random, the hash is right (3 against 11 s), and this value keeps it.
    "cpu_index_tuple_cost": "0.0001",
}

_COUNTS = """
    SELECT (SELECT count(*) FROM orders WHERE line = 0) AS orders,
           count(*) FILTER (WHERE outcome = 'PROCESSED') - (
               SELECT count(*) FROM cancellations WHERE outcome = 'returned'
           ) AS processed,
           count(*) FILTER (WHERE outcome = 'FAILED') AS failed,
           count(*) FILTER (WHERE outcome = 'CANCELLED') + (
               SELECT count(*) FROM cancellations WHERE outcome = 'returned'
           ) AS cancelled,
           (SELECT count(*) FROM dead_letters WHERE replayed_at IS NULL AND discarded_at IS NULL) AS dead_letters,
           (SELECT count(*) FROM dead_letters WHERE discarded_at IS NOT NULL) AS discarded,
           (SELECT count(*) FROM products) AS products
    FROM stock_ledger
"""
_DEAD = """
    string_agg(DISTINCT stage, ', ') FILTER (
        WHERE replayed_at IS NULL AND discarded_at IS NULL AND NOT (stage = 'persist' AND reason = 'id_conflict')
    ) AS parked,
    coalesce(bool_or(discarded_at IS NOT NULL), false) AS is_discarded,
    coalesce(bool_or(replayed_at IS NULL AND discarded_at IS NULL AND stage = 'stock'), false) AS is_failed,
    max(replayed_at) AS replayed_at
"""
_TRACE = """
    coalesce(o.id, l.order_id)::text, o.product_id::text, o.quantity, o.line_count,
    l.product_id::text, l.quantity, l.line_count, l.outcome, d.parked, d.is_discarded, d.is_failed,
    extract(epoch FROM now() - greatest(o.persisted_at, d.replayed_at))::float8,
    extract(epoch FROM now() - l.decided_at)::float8
"""
# A row of line 0 stands for its order. What a basket's verdict says of its lines is how many they are.
_ORDERS = "(SELECT id, product_id, quantity, line_count, persisted_at FROM orders WHERE line = 0)"
# Null: a verdict on an order that was discarded unread says nothing of it.
_DIFFERS = """
    (CASE WHEN o.line_count IS NULL AND l.line_count IS NULL
        THEN o.product_id <> l.product_id OR o.quantity <> l.quantity
        ELSE o.line_count IS DISTINCT FROM l.line_count AND nullif(num_nonnulls(l.product_id, l.line_count) > 0, false)
    END)
"""
# Orders that are stored and undecided, decided and not stored, or decided as something else than is stored.
_OTHERWISE = f"""
    SELECT {_TRACE}
    FROM {_ORDERS} o
    FULL JOIN stock_ledger l ON l.order_id = o.id
    CROSS JOIN LATERAL (SELECT {_DEAD} FROM dead_letters WHERE order_id = coalesce(o.id, l.order_id)) d
    WHERE o.id IS NULL OR l.order_id IS NULL OR {_DIFFERS}
"""
# Orders that are decided as they are stored, and parked as well.
_PARKED_TOO = f"""
    SELECT {_TRACE}
    FROM (SELECT order_id, {_DEAD} FROM dead_letters WHERE order_id IS NOT NULL GROUP BY order_id) d
    JOIN stock_ledger l ON l.order_id = d.order_id
    JOIN {_ORDERS} o ON o.id = d.order_id
    WHERE d.parked IS NOT NULL AND NOT {_DIFFERS}
"""
# Orders that were parked, replayed, and are in no other table.
_REPLAYED_ONLY = """
    SELECT order_id::text, (array_agg(id ORDER BY replayed_at DESC))[1],
           extract(epoch FROM now() - max(replayed_at))::float8
    FROM dead_letters
    WHERE order_id IS NOT NULL
    GROUP BY order_id
    HAVING bool_and(replayed_at IS NOT NULL)
       AND NOT EXISTS (SELECT FROM orders WHERE id = order_id)
       AND NOT EXISTS (SELECT FROM stock_ledger l WHERE l.order_id = dead_letters.order_id)
"""
# Orders that any table calls cancelled. The units of a line came back if one adjustment says so.
_CANCELLED = """
    SELECT k.order_id::text, (
            SELECT outcome FROM cancellations
            WHERE order_id = k.order_id AND outcome IN ('before_verdict', 'returned') LIMIT 1
        ), (SELECT min(outcome) FROM stock_ledger WHERE order_id = k.order_id),
        (SELECT count(*) FROM orders WHERE id = k.order_id),
        (
            SELECT count(*) FROM orders o WHERE id = k.order_id AND 1 = (
                SELECT count(*) FROM stock_adjustments a
                WHERE a.order_id = o.id AND a.product_id = o.product_id AND a.delta = o.quantity
            )
        ), (SELECT count(*) FROM stock_adjustments WHERE order_id = k.order_id)
    FROM (
        SELECT order_id FROM cancellations WHERE outcome IN ('before_verdict', 'returned')
        UNION SELECT order_id FROM stock_adjustments WHERE order_id IS NOT NULL
        UNION SELECT order_id FROM stock_ledger WHERE outcome = 'CANCELLED'
    ) AS k
"""
_CANCEL_WAITS = """
    SELECT c.order_id::text, l.outcome, extract(epoch FROM now() - greatest(c.stored_at, l.decided_at))::float8,
           c.client, c.sees_all, c.reason, c.requested_at
    FROM cancellations c JOIN stock_ledger l USING (order_id) WHERE c.outcome IS NULL
"""
# The primary keys forbid these, but an audit does not rely on what it audits.
_STORED_TWICE = "SELECT id::text, count(*) FROM orders GROUP BY id, line HAVING count(*) > 1"
_DECIDED_TWICE = "SELECT order_id::text, count(*) FROM stock_ledger GROUP BY order_id HAVING count(*) > 1"
_BOOKS = f"SELECT product_id::text, qty, adjusted, processed FROM ({balances()}) b WHERE {UNBALANCED}"
_FETCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Counts:
    """Row counts of the snapshot. `dead_letters`: those that are neither replayed nor discarded."""

    orders: int
    processed: int
    """PROCESSED verdicts without those that were cancelled since."""
    failed: int
    cancelled: int
    dead_letters: int
    discarded: int
    """Dead letters that an operator discarded: their orders are FAILED for ever."""
    products: int
    pending: int
    """All orders without a verdict, the late ones included, which are offenders."""


async def audit(
    connection: Connection,
    lag_s: float,
    on_offender: Callable[[Offender], None],
    on_question: Callable[[str], None] = lambda _: None,
) -> Counts:
    """Run every check in one snapshot. `on_offender` gets each offender when found, `on_question` each check's name."""
    pending = 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        on_question("counting")
        counts = await connection.fetchrow(_COUNTS)
        assert counts is not None
        for question, query in (("every order: its verdict", _OTHERWISE), ("every dead letter", _PARKED_TOO)):
            on_question(question)
            async for row in _rows(connection, query):
                trace = Trace(*row)
                pending += trace.is_undecided
                for offender in judge(trace, lag_s):
                    on_offender(offender)
        on_question("every replay: what became of it")
        async for row in _rows(connection, _REPLAYED_ONLY):
            for offender in lost(Replay(*row), lag_s):
                on_offender(offender)
        for check, query in ((STORED_TWICE, _STORED_TWICE), (DECIDED_TWICE, _DECIDED_TWICE)):
            on_question(f"every order: {check.replace('_', ' ')}?")
            async for row in _rows(connection, query):
                on_offender(repeated(check, *row))
        on_question("every basket: its lines")
        async for row in _rows(connection, half_baskets()):
            on_offender(half_basket(*row))
        on_question("every cancellation: its effect")
        async for row in _rows(connection, _CANCELLED):
            for offender in cancelled_otherwise(CancelTrace(*row)):
                on_offender(offender)
        async for row in _rows(connection, _CANCEL_WAITS):
            for offender in unsettled(CancelWait(*row), lag_s):
                on_offender(offender)
        on_question("every event: its cause")
        async for offender in audit_events(connection):
            on_offender(offender)
        on_question("every product: its stock")
        async for row in _rows(connection, _BOOKS):
            on_offender(unbalanced(StockMismatch(*row)))
    return Counts(**dict(counts), pending=pending)


async def late_ids(connection: Connection, lag_s: float) -> AsyncIterator[str]:
    """The ids of the orders that `audit` calls NO_VERDICT. Runs in the caller's transaction."""
    async for row in _rows(connection, _OTHERWISE):
        trace = Trace(*row)
        if is_late(trace, lag_s):
            yield trace.id


async def forgotten(connection: Connection, lag_s: float) -> AsyncIterator[CancelWait]:
    """The cancellations that `audit` calls CANCEL_WAITS. Runs in the caller's transaction."""
    async for row in _rows(connection, _CANCEL_WAITS):
        wait = CancelWait(*row)
        if is_forgotten(wait, lag_s):
            yield wait


def _rows(connection: Connection, query: str) -> AsyncIterable[asyncpg.Record]:
    return connection.cursor(query, prefetch=_FETCH_ROWS)
