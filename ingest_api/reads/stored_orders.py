"""What PostgreSQL knows of orders. An order's status is read, not stored.

no verdict yet          PENDING
a row in stock_ledger   PROCESSED, FAILED with its reason, or CANCELLED: final
a row in cancellations  CANCELLED, if it is settled and effective: then the order takes no stock, or no longer
a dead letter           FAILED with that reason, until it is replayed. For a stored order, only one of the stock stage
                        counts. Discarding a letter writes a row in stock_ledger
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import asyncpg

from database.sessions import Pool, StoreUnavailable, reading
from ingest_api.reads.order_walks import (
    Query,
    Stretch,
    Walk,
    Wanted,
    below,
    ends_query,
    furthest,
    page_query,
    walks_for,
)
from ingest_api.rounds import Rounds
from pipeline.contract.cancellations import IS_EFFECTIVE
from pipeline.contract.order_rows import selected_members
from pipeline.contract.order_view import OrderStatus, view
from pipeline.contract.stages import Stage
from pipeline.process.breaker import Breaker
from pipeline.process.shares import Busy, Shares
from pipeline.process.turns import Turns
from web.requests.paging import Cursor, Page

Row: TypeAlias = asyncpg.Record
"""id, status, reason, final, is_stored; and `client` with the members that a client sees, all null for an order that is
not stored. Then `parked` is the body of its dead letter, if it has one: it says whose order it is.
"""

PENDING = OrderStatus.PENDING
# An order takes some 400. A longer body is not an order that could be decoded.
_MAX_PARKED_BYTES = 64 * 1024
# Orders in one question: PostgreSQL takes 4 ms for 200 that exist.
_IDS_AT_ONCE = 200

# How late this process may notice that a deadline has passed, and still blame PostgreSQL for it.
_BUSY_S = 0.1

T = TypeVar("T")


def _columns(order_id: str) -> str:
    return f"""
    {order_id}::text AS id, o.id IS NOT NULL AS is_stored, o.client, {selected_members("o")},
    CASE WHEN c.settled_at IS NOT NULL THEN 'CANCELLED' WHEN l.outcome IS NOT NULL THEN l.outcome
         WHEN d.reason IS NOT NULL THEN 'FAILED' ELSE 'PENDING' END AS status,
    coalesce(l.reason, d.reason) AS reason, l.failed_line, l.units_left, l.order_id IS NOT NULL AS final,
    c.settled_at AS cancelled_at, c.reason AS cancel_reason,
    CASE WHEN o.id IS NULL AND octet_length(d.body) <= {_MAX_PARKED_BYTES} THEN d.body END AS parked
"""


def _verdict(order_id: str) -> str:
    """SQL that joins the verdict and the cancellation, or the dead letter of an order that has no verdict.

    A replayed dead letter no longer counts. Once the order is stored, nor does a letter of the persist stage: it parked
    another order under the same id (id_conflict). For a discarded order that is not stored, the letter says whose it
    is.
    """
    return f"""
    LEFT JOIN stock_ledger l ON l.order_id = {order_id}
    LEFT JOIN cancellations c ON c.order_id = {order_id} AND c.{IS_EFFECTIVE} {_letter(order_id)}
    """


def _letter(order_id: str) -> str:
    """SQL that joins the dead letter: see `_verdict`."""
    return f"""
    LEFT JOIN LATERAL (
        SELECT reason, body FROM dead_letters
        WHERE order_id = {order_id} AND replayed_at IS NULL
          AND (o.id IS NULL OR (l.order_id IS NULL AND stage = '{Stage.STOCK}'))
        ORDER BY id DESC LIMIT 1
    ) d ON true
"""


# A row for each id, whether anything is known of it or not.
_BY_ID = f"""
    SELECT {_columns("i.id")} FROM unnest($1::uuid[]) AS i (id)
    LEFT JOIN orders o ON o.id = i.id AND o.line = 0 {_verdict("i.id")}
"""
# Those of many orders that are decided or parked, for all that wait. Most are not found, at 4 µs each; with _BY_ID it
# would be 18 µs (a thousand that wait, half a million orders).
DECIDED = f"""
    WITH i AS MATERIALIZED (
        SELECT order_id AS id FROM stock_ledger WHERE order_id = ANY($1::uuid[])
        UNION SELECT order_id FROM dead_letters WHERE order_id = ANY($1::uuid[]) AND replayed_at IS NULL
    )
    SELECT {_columns("i.id")} FROM i LEFT JOIN orders o ON o.id = i.id AND o.line = 0 {_verdict("i.id")}
    WHERE l.order_id IS NOT NULL OR d.reason IS NOT NULL
"""

# Orders that are stored or parked, and whether they have a verdict or a dead letter that stands for one.
_SETTLED = f"""
    SELECT i.id::text, l.order_id IS NOT NULL OR d.reason IS NOT NULL AS is_decided
    FROM unnest($1::uuid[]) AS i (id) LEFT JOIN orders o ON o.id = i.id AND o.line = 0 {_verdict("i.id")}
    WHERE o.id IS NOT NULL OR l.order_id IS NOT NULL OR d.reason IS NOT NULL
"""

# Looked up for one order after the other. For a page that may examine thousands, PostgreSQL would rather hash the whole
# ledger: 1.7 s of one million orders, measured.
_VERDICT_OF_LISTED = f"""
    LEFT JOIN LATERAL (SELECT * FROM stock_ledger WHERE order_id = o.id OFFSET 0) l ON true
    LEFT JOIN LATERAL (SELECT * FROM cancellations WHERE order_id = o.id AND {IS_EFFECTIVE} OFFSET 0) c ON true
    {_letter("o.id")}
"""
# Of a stored order, by status. Each says first what the ledger alone can tell, so that few dead letters are looked for.
_HAS_STATUS: Mapping[str, str] = {
    OrderStatus.PENDING: "l.order_id IS NULL AND d.reason IS NULL",
    OrderStatus.PROCESSED: "l.outcome = 'PROCESSED' AND c.settled_at IS NULL",
    OrderStatus.FAILED: "(l.order_id IS NULL OR l.outcome = 'FAILED')"
    " AND (l.order_id IS NOT NULL OR d.reason IS NOT NULL)",
    OrderStatus.CANCELLED: "(l.outcome = 'CANCELLED' OR c.settled_at IS NOT NULL)",
}
assert _HAS_STATUS.keys() == set(OrderStatus)


def listed(walk: Walk, wanted: Wanted, stretch: Stretch, page: Page) -> Query:
    """The question for a page of a list: see order_walks."""
    return page_query(walk, wanted, stretch, page, _columns("o.id"), _VERDICT_OF_LISTED, _HAS_STATUS)


LIST_SETTINGS = {"max_parallel_workers_per_gather": "0", "jit": "off"}
"""For the sessions that read lists. A page reads few rows, so neither helps it. Where PostgreSQL expects more, starting
workers and compiling took a page from 9 ms to 2 s, measured on a million orders.
"""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How much is read at once."""

    order_connections: int
    list_connections: int
    max_orders: int
    """Orders that are asked for."""
    max_lists: int
    """Lists that are read or wait for their turn."""
    timeout_s: float
    """For PostgreSQL to answer, and for a turn to come."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a list of orders."""

    rows: Sequence[Row]
    next: Cursor | None
    """Where the next page begins; None: this is the last one."""


class StoredOrders:
    """Reads orders within a deadline. Raises Busy past its limits, and StoreUnavailable.

    One question asks for many single orders. Lists, which take the longest, take turns at connections of their own. So
    no query waits for a connection, and PostgreSQL is to blame for a deadline that passes. Then the next reads of that
    sort fail at once for a second, until one of them tries again.
    """

    def __init__(self, singles: Pool, lists: Pool, limits: ReadLimits) -> None:
        """`singles`, `lists`: pools of as many connections as `limits` say; `lists` with LIST_SETTINGS."""
        self._singles, self._lists, self._timeout_s = singles, lists, limits.timeout_s
        self._single_breaker, self._list_breaker = Breaker("postgresql for orders"), Breaker("postgresql for lists")
        places = Shares("orders to read", limits.max_orders)
        self._reads = self._rounds(self._read, places, limits.order_connections)
        self._turns = Turns(Shares("lists to read", limits.max_lists), limits.list_connections, limits.timeout_s)

    async def find(self, order_ids: Collection[str], asker: str) -> Mapping[str, Row]:
        """What is known of each order, if only that it is PENDING. `asker`: the client's name."""
        return await self._reads.find(order_ids, asker)

    async def page(self, wanted: Wanted, stretch: Stretch, page: Page, asker: str) -> ListPage:
        """A page of the orders that are wanted, newest first."""
        walks = walks_for(wanted)
        async with self._turns.turn(asker):
            found = await self._list(ends_query(walks, wanted, stretch, page))
            walk, end = furthest(walks, {row["walk"]: row["at"] for row in found})
            rows = await self._list(listed(walk, wanted, Stretch(stretch.before, end or stretch.since), page))
        if len(rows) > page.limit:
            return ListPage(rows[: page.limit], _cursor(rows[page.limit - 1]))
        return ListPage(rows, None if end is None else below(end))

    async def _list(self, query: Query) -> Sequence[Row]:
        return await self._fetch(self._lists, self._list_breaker, query.sql, *query.values)

    def _rounds(
        self, ask: Callable[[Sequence[str]], Awaitable[Mapping[str, T]]], places: Shares, in_flight: int
    ) -> Rounds[T]:
        return Rounds(ask, places, ids_at_once=_IDS_AT_ONCE, in_flight=in_flight, timeout_s=self._timeout_s)

    async def _read(self, order_ids: Sequence[str]) -> dict[str, Row]:
        rows = await self._fetch(self._singles, self._single_breaker, _BY_ID, order_ids)
        return {row["id"]: row for row in rows}

    async def settled(self, order_ids: Sequence[str]) -> dict[str, bool]:
        """The orders that are stored or parked, by id, and whether they are decided. Raises StoreUnavailable.

        Asked once a second, for some milliseconds. It bypasses the breaker, so its failures do not affect readers.
        """
        async with reading(self._singles, self._timeout_s) as connection:
            rows: Sequence[Row] = await connection.fetch(_SETTLED, order_ids)
        return {row["id"]: row["is_decided"] for row in rows}

    async def _fetch(self, pool: Pool, breaker: Breaker, query: str, *values: object) -> Sequence[Row]:
        if not breaker.may_try():
            raise StoreUnavailable("PostgreSQL did not answer a moment ago")
        late_s: list[float] = []
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        at_deadline = loop.call_at(deadline, lambda: late_s.append(loop.time() - deadline))
        try:
            async with reading(pool, self._timeout_s) as connection:
                rows: Sequence[Row] = await connection.fetch(query, *values)
        except StoreUnavailable as error:
            if late_s and late_s[0] > _BUSY_S:  # the answer may be here, and this process had no time to look
                raise Busy("late ourselves") from error
            breaker.failed(error)
            raise
        finally:
            at_deadline.cancel()
        breaker.worked()
        return rows


def _cursor(row: Row) -> Cursor:
    return Cursor(row["created_at"], row["id"])


def products_of(rows: Iterable[Row]) -> set[str]:
    """The products whose lists these orders are in."""
    return {product for row in rows if row["is_stored"] for product in view(row).products}
