"""What PostgreSQL knows of orders. An order's status is read, not stored.

no verdict yet          PENDING
a row in stock_ledger   PROCESSED, or FAILED with its reason
a dead letter           FAILED with that reason; of an order that is stored, only one of the stock stage
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import asyncpg

from database.sessions import Pool, StoreUnavailable, reading
from pipeline.breaker import Breaker
from pipeline.orders import Order
from web.paging import Page

Row: TypeAlias = asyncpg.Record
"""id, status, reason, is_stored; and the columns of `orders`, all null where it is not stored."""

PENDING = "PENDING"


def _columns(order_id: str) -> str:
    return f"""
    {order_id}::text AS id, o.id IS NOT NULL AS is_stored, o.client,
    o.product_id::text, o.quantity, o.unit_price, o.total_price, o.accepted_at,
    coalesce(l.outcome, CASE WHEN d.reason IS NULL THEN 'PENDING' ELSE 'FAILED' END) AS status,
    coalesce(l.reason, d.reason) AS reason
"""


def _verdict(order_id: str) -> str:
    """The verdict, or the dead letter of an order that has none.

    A replayed dead letter says nothing any more. Nor, once the order is stored, does one of the stage before: what was
    parked there under its id was another (id_conflict).
    """
    return f"""
    LEFT JOIN stock_ledger l ON l.order_id = {order_id}
    LEFT JOIN LATERAL (
        SELECT reason FROM dead_letters
        WHERE order_id = {order_id} AND replayed_at IS NULL AND l.order_id IS NULL AND (o.id IS NULL OR stage = 'stock')
        ORDER BY id DESC LIMIT 1
    ) d ON true
"""


# A row for each id, whether anything is known of it or not.
_BY_ID = f"""
    SELECT {_columns("i.id")} FROM unnest($1::uuid[]) AS i (id) LEFT JOIN orders o ON o.id = i.id {_verdict("i.id")}
"""
# Those of many that will not change any more, for all who wait. Most are not found, at 4 µs each; asked as _BY_ID, it
# would be 18 (a thousand who wait, half a million orders).
DECIDED = f"""
    WITH i AS MATERIALIZED (
        SELECT order_id AS id FROM stock_ledger WHERE order_id = ANY($1::uuid[])
        UNION SELECT order_id FROM dead_letters WHERE order_id = ANY($1::uuid[]) AND replayed_at IS NULL
    )
    SELECT {_columns("i.id")} FROM i LEFT JOIN orders o ON o.id = i.id {_verdict("i.id")}
    WHERE l.order_id IS NOT NULL OR d.reason IS NOT NULL
"""

_ACCEPTED = """
    SELECT id::text, product_id::text, quantity, unit_price, total_price, accepted_at AS created_at
    FROM orders WHERE id = ANY($1::uuid[])
"""

_OF_PRODUCT = f"""
    SELECT {_columns("o.id")} FROM orders o {_verdict("o.id")}
    WHERE o.product_id = $1 AND (o.accepted_at, o.id) < ($2, $3) {{}}
    ORDER BY o.accepted_at DESC, o.id DESC LIMIT $4
"""
ALL_OF_PRODUCT = _OF_PRODUCT.format("")
# Of one client's, so that the index by client is used, which has no others to walk past.
THEIRS_OF_PRODUCT = _OF_PRODUCT.format("AND o.client = $5")


class StoredOrders:
    """Reads with a deadline. Once one has failed, the next ones fail at once for a second, instead of queueing up for a
    pool whose connections all wait for a PostgreSQL that does not answer; then one of them tries it again.
    """

    def __init__(self, pool: Pool, timeout_s: float) -> None:
        self._pool, self._timeout_s = pool, timeout_s
        self._breaker = Breaker("postgresql")

    async def get(self, order_id: str) -> Row:
        """What is known of the order, if only that it is PENDING. Raises StoreUnavailable."""
        return (await self._fetch(_BY_ID, [order_id]))[0]

    async def accepted(self, order_ids: Sequence[str]) -> dict[str, Order]:
        """Those that are stored, by id, as they were when they were accepted. Raises StoreUnavailable."""
        rows = await self._fetch(_ACCEPTED, order_ids)
        return {row["id"]: Order(**row, status=PENDING) for row in rows}

    async def of_product(self, product_id: str, client: str | None, page: Page) -> Sequence[Row]:
        """One more than the page shows, of all orders, or of one client's. Raises StoreUnavailable."""
        values = (product_id, page.before.at, page.before.id, page.one_more)
        if client is None:
            return await self._fetch(ALL_OF_PRODUCT, *values)
        return await self._fetch(THEIRS_OF_PRODUCT, *values, client)

    async def _fetch(self, query: str, *values: object) -> Sequence[Row]:
        if not self._breaker.may_try():
            raise StoreUnavailable("PostgreSQL did not answer a moment ago")
        try:
            async with reading(self._pool, self._timeout_s) as connection:
                rows: Sequence[Row] = await connection.fetch(query, *values)
        except StoreUnavailable as error:
            self._breaker.failed(error)
            raise
        self._breaker.worked()
        return rows


def products_of(rows: Iterable[Row]) -> set[str]:
    """The products whose lists these orders are in."""
    return {row["product_id"] for row in rows if row["is_stored"]}
