"""Checks correctness: compares the ids answered 2xx with the ids in PostgreSQL, as sets.

A contender that loses one order in a hundred thousand may be fast because of it. So a run is void unless every answered
id is in `orders` and in `stock_ledger`, no unknown id is stored, no id was answered twice, and the stock of every
product matches its orders. A basket has all its lines, and an order is CANCELLED if and only if its client asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg

from benchmarks.report.results import Percentiles
from proof.accounting_sql import half_baskets
from proof.stock import UNBALANCED, balances

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# What was stored before anything was measured (growth) says that it is older than this.
FILLED_BEFORE = "2001-01-01"

_ORDERS = f"SELECT id FROM orders WHERE line = 0 AND accepted_at >= '{FILLED_BEFORE}'"
_LEDGER = f"SELECT order_id FROM stock_ledger WHERE decided_at >= '{FILLED_BEFORE}'"
_CANCELLED = "SELECT order_id FROM cancellations WHERE outcome IN ('before_verdict', 'returned')"
_REFUSED = f"SELECT count(*) FROM stock_ledger WHERE outcome = 'FAILED' AND decided_at >= '{FILLED_BEFORE}'"
# How many products have books that do not add up: P3, and what was ordered against what was taken.
_WRONG_STOCK = f"""
    SELECT count(*) FROM ({balances()}) b
    LEFT JOIN (
        SELECT product_id, sum(quantity) AS ordered FROM orders
        WHERE accepted_at >= '{FILLED_BEFORE}'
          AND id NOT IN (SELECT order_id FROM stock_ledger WHERE outcome = 'CANCELLED') GROUP BY 1
    ) o USING (product_id)
    WHERE qty IS NOT NULL AND ({UNBALANCED} OR processed <> coalesce(ordered, 0))
"""
_TIMES = """
    SELECT percentile_disc(ARRAY[0.5, 0.9, 0.99, 1]) WITHIN GROUP (
               ORDER BY 1000 * extract(epoch FROM persisted_at - accepted_at)::float8),
           percentile_disc(ARRAY[0.5, 0.9, 0.99, 1]) WITHIN GROUP (
               ORDER BY 1000 * extract(epoch FROM decided_at - accepted_at)::float8),
           extract(epoch FROM greatest(max(decided_at), (SELECT max(settled_at) FROM cancellations)))::float8,
           count(*) FILTER (WHERE decided_at > to_timestamp($2))
    FROM orders JOIN stock_ledger ON order_id = id
    WHERE line = 0 AND accepted_at >= to_timestamp($1)
"""


@dataclass(slots=True)
class Answers:
    """The answers that clients got since the deployment began."""

    ids: set[str] = field(default_factory=set)
    twice: int = 0
    unknown: int = 0
    """Orders of unknown outcome: they may be stored, or cancelled."""
    cancelled: set[str] = field(default_factory=set)
    """Ids whose cancellation was answered 2xx."""

    def add(self, ids: Sequence[str], unknown: int, cancelled: Sequence[str] = ()) -> None:
        fresh = set(ids)
        self.twice += len(ids) - len(fresh) + len(fresh & self.ids)
        self.ids |= fresh
        self.unknown += unknown
        self.cancelled |= set(cancelled)


@dataclass(frozen=True, slots=True)
class Account:
    """`void`: the reason, or None when everything is in order."""

    unknown_stored: int
    void: str | None


@dataclass(frozen=True, slots=True)
class Times:
    """Of the orders that were accepted since a moment, by the database's rows."""

    stored_ms: Percentiles
    decided_ms: Percentiles
    last_decided_s: float | None
    """Unix time."""
    backlog: int
    """How many were decided later than a second moment."""


def settle(
    answers: Answers,
    stored: Collection[str],
    decided: Collection[str],
    cancelled: Collection[str] = (),
    *,
    refused: int,
    half: int = 0,
    wrong_stock: int,
) -> Account:
    """Compare the sets. `cancelled`: orders that are CANCELLED. `refused`: orders decided FAILED although stock
    suffices for all. `half`: half baskets.
    """
    stored, decided = set(stored), set(decided)
    extra = len((stored | decided) - answers.ids)
    unasked = len(set(cancelled) - answers.cancelled)
    faults = {
        "answered without an id, or twice": answers.twice,
        "answered and not stored": len(answers.ids - stored),
        "answered and not decided": len(answers.ids - decided),
        "stored and not decided, or the reverse": len((stored ^ decided) - answers.ids),
        "stored and never answered": max(0, extra - answers.unknown),
        "refused for want of stock that was there": refused,
        "baskets that are stored in part": half,
        "cancelled and not CANCELLED": len(answers.cancelled - set(cancelled)),
        "CANCELLED and never cancelled": max(0, unasked - answers.unknown),
        "products whose stock does not add up": wrong_stock,
    }
    found = [f"{count:,} {what}" for what, count in faults.items() if count]
    return Account(extra, "; ".join(found) or None)


# ── I/O below


async def audit(connection: Connection, answers: Answers) -> Account:
    """Everything that the database of one deployment holds. Call it when all is decided, or never will be."""
    refused, wrong_stock = await connection.fetchval(_REFUSED), await connection.fetchval(_WRONG_STOCK)
    stored, decided, cancelled = [await _ids(connection, query) for query in (_ORDERS, _LEDGER, _CANCELLED)]
    half = await connection.fetchval(f"SELECT count(*) FROM ({half_baskets()}) b")
    return settle(answers, stored, decided, cancelled, refused=refused, half=half, wrong_stock=wrong_stock)


async def times(connection: Connection, since_s: float, end_s: float) -> Times:
    """Of the orders accepted at or after `since_s`; the backlog is that at `end_s`. Unix seconds, the same clock."""
    row = await connection.fetchrow(_TIMES, since_s, end_s)
    assert row is not None
    stored, decided = (Percentiles(*(round(ms, 3) for ms in found or ())) for found in (row[0], row[1]))
    return Times(stored, decided, row[2], row[3])


async def _ids(connection: Connection, query: str) -> set[str]:
    """One column of uuids. COPY, because a hundred thousand records cost a second."""
    chunks: list[bytes] = []

    async def take(chunk: bytes) -> None:
        chunks.append(chunk)

    await connection.copy_from_query(query, output=take)
    return set(b"".join(chunks).decode().split())
