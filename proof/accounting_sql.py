"""Queries for the accounting: which orders are decided, and which rows exist. proof.accounting interprets the answers.

Each query takes the products, or an array of ids in chunks; a cursor fetches the rows. So a million orders take a few
large reads in one snapshot, and PostgreSQL plans and parses no more than for a thousand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import asyncpg
import msgspec

from proof.accounting import CANCELLED, PROCESSED, STORED, Account, Reconciliation, Row, Sent, Stock, Verdicts, settle
from proof.orders import Order
from proof.stock import balances

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def half_baskets(of: str = "true") -> str:
    """SQL: id, line_count, and the numbers of the stored lines of each basket whose rows are not exactly its lines.

    `of`: a condition on the columns of `orders`. It must hold for all rows of an order, or for none.
    """
    # The numbers are looked up for broken baskets alone: sorted in each group, they took three quarters of the time.
    return f"""
    SELECT id::text, lines, (SELECT string_agg(line::text, ', ' ORDER BY line) FROM orders WHERE id = broken.id)
    FROM (
        SELECT id, max(line_count)::int AS lines FROM orders
        WHERE (line_count IS NOT NULL OR line > 0) AND {of} GROUP BY id
        HAVING count(*) <> max(line_count) OR min(line_count) <> max(line_count) OR count(line_count) < count(*)
               OR bit_or(1::bigint << line) <> (1::bigint << max(line_count)) - 1
    ) AS broken
    """


_RETURNED = "returned"
# Whether a cancellation has made its order CANCELLED.
_IS_EFFECTIVE = f"outcome IN ('before_verdict', '{_RETURNED}')"
# The lines of a basket behind the first, as two arrays; null for an order of one line.
_MORE = ", ".join(
    "CASE WHEN o.line_count IS NOT NULL THEN"
    f" (SELECT array_agg({column} ORDER BY line) FROM orders WHERE id = o.id AND line > 0) END"
    for column in ("product_id::text", "quantity")
)
_NO_MORE, _NO_DETAILS = "NULL, NULL", "NULL, NULL"
_ORDERS = f"""
    SELECT id::text, '{STORED}', product_id::text, quantity, {_MORE}, reference, metadata::text
    FROM orders o WHERE line = 0 AND product_id = ANY($1::uuid[])
"""
_OUTCOME = f"CASE WHEN c.order_id IS NULL THEN coalesce(l.reason, l.outcome) ELSE '{CANCELLED}' END"
_CANCELLATION = f"LEFT JOIN cancellations c ON c.order_id = l.order_id AND c.{_IS_EFFECTIVE}"
# The verdict on a basket says what its rows in `orders` say.
_LEDGER = f"""
    SELECT l.order_id::text, {_OUTCOME}, l.product_id::text, l.quantity, {_NO_MORE}, {_NO_DETAILS}
    FROM stock_ledger l {_CANCELLATION} WHERE l.product_id = ANY($1::uuid[])
    UNION ALL SELECT l.order_id::text, {_OUTCOME}, o.product_id::text, o.quantity, {_MORE}, {_NO_DETAILS}
    FROM stock_ledger l JOIN orders o ON o.id = l.order_id {_CANCELLATION}
    WHERE l.line_count IS NOT NULL AND o.line = 0 AND o.product_id = ANY($1::uuid[])
"""
_HALF = half_baskets("id IN (SELECT id FROM orders WHERE product_id = ANY($1::uuid[]))")
# All waiting letters, of every client: a letter that persist_worker parked has no product to ask by. They are few.
_PARKED = """
    SELECT order_id::text FROM dead_letters WHERE order_id IS NOT NULL AND replayed_at IS NULL AND discarded_at IS NULL
"""
# The lines of orders with this outcome, by product.
_OF_ORDERS = """
    SELECT orders.product_id, sum(orders.quantity) AS quantity FROM orders JOIN {table} ON order_id = orders.id
    WHERE outcome = '{outcome}' AND orders.product_id = ANY($1::uuid[]) GROUP BY orders.product_id
"""
_STOCKS = f"""
    SELECT p.id::text, b.qty, coalesce(b.adjusted, 0), coalesce(b.processed, 0), coalesce(o.quantity, 0)::bigint,
           coalesce(a.delta, 0)::bigint, coalesce(c.quantity, 0)::bigint
    FROM unnest($1::uuid[]) AS p(id)
    LEFT JOIN ({balances("product_id = ANY($1::uuid[])")}) b ON b.product_id = p.id
    LEFT JOIN ({_OF_ORDERS.format(table="stock_ledger", outcome=PROCESSED)}) o ON o.product_id = p.id
    LEFT JOIN ({_OF_ORDERS.format(table="cancellations", outcome=_RETURNED)}) c ON c.product_id = p.id
    LEFT JOIN (
        SELECT product_id, sum(delta) AS delta FROM stock_adjustments
        WHERE order_id IS NOT NULL AND product_id = ANY($1::uuid[]) GROUP BY product_id
    ) a ON a.product_id = p.id
"""
_VERDICTS = """
    SELECT percentile_cont(ARRAY[0.5, 0.99])
               WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM decided_at - accepted_at)::float8),
           extract(epoch FROM max(decided_at))::float8
    FROM orders JOIN stock_ledger ON order_id = id WHERE line = 0 AND orders.product_id = ANY($1::uuid[])
"""
# For a stored order, a letter of persist_worker is no verdict (proof.offenders).
_IS_PARKED = """
    EXISTS (
        SELECT FROM dead_letters d WHERE order_id = sent.id AND replayed_at IS NULL
        AND (stage <> 'persist' OR NOT EXISTS (SELECT FROM orders WHERE orders.id = d.order_id))
    )
"""
_SENT = "SELECT id::text FROM unnest($1::uuid[]) WITH ORDINALITY AS sent(id, place)"
_UNDECIDED = f"""
    {_SENT} WHERE NOT EXISTS (SELECT FROM stock_ledger WHERE order_id = sent.id) AND NOT {_IS_PARKED} ORDER BY place
"""
# Of orders that were cancelled: those that are neither CANCELLED nor FAILED.
_UNSETTLED = f"""
    {_SENT} WHERE NOT EXISTS (SELECT FROM cancellations WHERE order_id = sent.id AND {_IS_EFFECTIVE})
      AND NOT EXISTS (SELECT FROM stock_ledger WHERE order_id = sent.id AND outcome <> '{PROCESSED}')
      AND NOT {_IS_PARKED} ORDER BY place
"""
_WITH_WAITING_CANCELLATION = f"""
    {_SENT} WHERE EXISTS (SELECT FROM cancellations WHERE order_id = sent.id AND outcome IS NULL) ORDER BY place
"""
_FETCH_ROWS = 10_000
POLL_S = 0.05
PROBES = 32
"""One poll looks up this many ids by primary key, about 0.5 ms of a core: 1 % at 20 polls a second."""


async def audit(connection: Connection, sent: Sent, product_ids: Sequence[str]) -> Account:
    """Account for all that was sent, in one snapshot of the database. Nobody else may order these products."""
    orders, ledger = Reconciliation(sent.accepted), Reconciliation(sent.accepted, knows_details=False)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await _cross_off(connection, orders, _ORDERS, product_ids)
        await _cross_off(connection, ledger, _LEDGER, product_ids)
        parked = [row[0] for row in await connection.fetch(_PARKED)]
        stocks = await stocks_of(connection, product_ids)
        half = [row[0] for row in await connection.fetch(_HALF, product_ids)]
        (p50_ms, p99_ms), last_s = await _verdicts(connection, product_ids)
    return settle(sent, orders, ledger, parked, stocks, Verdicts(p50_ms, p99_ms, last_s), half)


async def stocks_of(connection: Connection, product_ids: Sequence[str]) -> list[Stock]:
    """The stock of these products, each with the sums that it must equal."""
    return [Stock(*row) for row in await connection.fetch(_STOCKS, product_ids)]


async def _cross_off(
    connection: Connection, reconciliation: Reconciliation, query: str, product_ids: Sequence[str]
) -> None:
    cursor = await connection.cursor(query, product_ids)
    while rows := await cursor.fetch(_FETCH_ROWS):
        reconciliation.cross_off(map(_row, rows))


def _row(row: asyncpg.Record) -> Row:
    id_, outcome, product_id, quantity, products, quantities, reference, metadata = row
    more = () if products is None else tuple(zip(products, quantities, strict=True))
    return Row(id_, Order(product_id, quantity, more, reference, pairs_in(metadata)), outcome)


def pairs_in(metadata: str | None) -> tuple[tuple[str, str], ...]:
    """The pairs of the column `metadata`, in their order."""
    return () if metadata is None else tuple(msgspec.json.decode(metadata, type=dict[str, str]).items())


async def _verdicts(connection: Connection, product_ids: Sequence[str]) -> tuple[Sequence[float | None], float | None]:
    row = await connection.fetchrow(_VERDICTS, product_ids)
    assert row is not None
    return row[0] or (None, None), row[1]


async def undecided(connection: Connection, ids: Sequence[str]) -> list[str]:
    """The `ids` without a verdict or a dead letter, in the order given. Asks in chunks."""
    return await _those(_UNDECIDED, connection, ids)


async def unsettled(connection: Connection, ids: Sequence[str]) -> list[str]:
    """The `ids` of cancelled orders that are neither CANCELLED, FAILED nor a dead letter yet, in the order given."""
    return await _those(_UNSETTLED, connection, ids)


async def with_waiting_cancellation(connection: Connection, ids: Sequence[str]) -> list[str]:
    """The `ids` of orders with a cancellation that has no outcome yet, in the order given."""
    return await _those(_WITH_WAITING_CANCELLATION, connection, ids)


async def _those(query: str, connection: Connection, ids: Sequence[str]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(ids), _FETCH_ROWS):
        found += [row[0] for row in await connection.fetch(query, ids[start : start + _FETCH_ROWS])]
    return found


Question: TypeAlias = Callable[[Connection, Sequence[str]], Awaitable[list[str]]]
"""Which of these orders are not ready yet."""


async def drain(
    connection: Connection,
    ids: Sequence[str],
    on_progress: Callable[[int], None],
    patience_s: float = 30.0,
    which: Question = undecided,
) -> list[str]:
    """Wait until each id is decided. Returns the undecided ones once there was no progress for `patience_s` seconds.

    `ids`: in the order of acceptance. A few of them, evenly spread, are polled as a sample; once they are decided, one
    query asks for the rest. `on_progress` gets an estimate of how many are decided. `which`: asks something else
    than `undecided`.
    """
    pending = list(ids)
    while pending:
        probes = spread(pending, PROBES)
        estimate = partial(_estimate, on_progress, len(ids) - len(pending), len(pending))
        moved = await _drain_probes(which, connection, probes, estimate, patience_s)
        before, pending = len(pending), await which(connection, pending)
        on_progress(len(ids) - len(pending))
        if not moved and len(pending) == before:
            break
    return pending


def _estimate(on_progress: Callable[[int], None], decided: int, pending: int, share: float) -> None:
    on_progress(decided + int(share * pending))


async def _drain_probes(
    which: Question,
    connection: Connection,
    probes: Sequence[str],
    on_share: Callable[[float], None],
    patience_s: float,
) -> bool:
    """Wait until all probes are decided (True), or none more was for `patience_s` seconds (False)."""
    waiting = len(probes)
    stuck_s = time.monotonic() + patience_s
    while time.monotonic() < stuck_s:
        left = len(await which(connection, probes))
        if left == 0:
            return True
        if left < waiting:
            waiting, stuck_s = left, time.monotonic() + patience_s
            on_share(1 - left / len(probes))
        await asyncio.sleep(POLL_S)
    return False


def spread(items: Sequence[str], count: int) -> list[str]:
    """Pick at most `count` of the items at even distances, the last one included."""
    step = -(-len(items) // count)
    return list(items[::-1][::step]) if items else []


async def clock_offset_s(connection: Connection) -> float:
    """Seconds to add to time.perf_counter() for the database's Unix time; off by half a round trip at most."""
    readings = []
    for _ in range(5):
        before_s = time.perf_counter()
        database_s = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        after_s = time.perf_counter()
        readings.append((after_s - before_s, database_s - (before_s + after_s) / 2))
    return float(min(readings)[1])
