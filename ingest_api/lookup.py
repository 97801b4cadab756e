"""GET an order, and the orders of a product. An order's status is read, not stored.

no verdict yet          PENDING
a row in stock_ledger   PROCESSED, or FAILED with its reason
a dead letter           FAILED with that reason; of an order that is stored, only one of the stock stage
an id of ours, no row   PENDING: it is on its way (P6)
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType

import asyncpg
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from database.sessions import Pool, reading
from pipeline.order_ids import OrderIds
from web import problems
from web.ids import id_in_path
from web.paging import Cursor, Page

# The verdict, or the dead letter of an order that has none. A replayed dead letter says nothing any more. Nor does one
# of the stage before: the order is stored, so what was parked there under its id was another (id_conflict).
_VERDICT = """
    LEFT JOIN stock_ledger l ON l.order_id = o.id
    LEFT JOIN LATERAL (
        SELECT reason FROM dead_letters
        WHERE order_id = o.id AND stage = 'stock' AND replayed_at IS NULL AND l.order_id IS NULL
        ORDER BY id DESC LIMIT 1
    ) d ON true
"""
_COLUMNS = """
    o.id::text, o.product_id::text, o.quantity, o.unit_price, o.total_price, o.accepted_at,
    coalesce(l.outcome, CASE WHEN d.reason IS NULL THEN 'PENDING' ELSE 'FAILED' END) AS status,
    coalesce(l.reason, d.reason) AS reason
"""
_ORDER = f"SELECT {_COLUMNS} FROM orders o {_VERDICT} WHERE o.id = $1"
_DEAD_ORDER = "SELECT reason FROM dead_letters WHERE order_id = $1 AND replayed_at IS NULL ORDER BY id DESC LIMIT 1"
_ORDERS_OF_PRODUCT = f"""
    SELECT {_COLUMNS} FROM orders o {_VERDICT}
    WHERE o.product_id = $1 AND (o.accepted_at, o.id) < ($2, $3)
    ORDER BY o.accepted_at DESC, o.id DESC LIMIT $4
"""


class OrderView(msgspec.Struct, omit_defaults=True):
    """An order as it is answered. Only `id` and `status` are there for one that is not stored yet."""

    id: str
    status: str
    product_id: str | None = None
    quantity: int | None = None
    unit_price: Decimal | None = None
    total_price: Decimal | None = None
    created_at: datetime | None = None
    reason: str | None = None


_encoder = msgspec.json.Encoder(decimal_format="number")


def view(row: asyncpg.Record) -> OrderView:
    return OrderView(
        id=row["id"],
        status=row["status"],
        product_id=row["product_id"],
        quantity=row["quantity"],
        unit_price=row["unit_price"],
        total_price=row["total_price"],
        created_at=row["accepted_at"],
        reason=row["reason"],
    )


# ── I/O below


class OrderLookup:
    """The two GET endpoints."""

    def __init__(self, pool: Pool, ids: OrderIds, timeout_s: float) -> None:
        self._pool, self._ids, self._timeout_s = pool, ids, timeout_s

    async def get(self, request: Request) -> Response:
        order_id = id_in_path(request, "order")
        if rows := await self._fetch(_ORDER, order_id):
            return _json(view(rows[0]))
        if dead := await self._fetch(_DEAD_ORDER, order_id):
            return _json(OrderView(order_id, "FAILED", reason=dead[0]["reason"]))
        if self._ids.is_ours(order_id):
            return _json(OrderView(order_id, "PENDING"))
        raise problems.not_found(f"order {order_id}")

    async def of_product(self, request: Request) -> Response:
        product_id = id_in_path(request, "product")
        page = Page.of(request)
        rows = await self._fetch(_ORDERS_OF_PRODUCT, product_id, page.before.at, page.before.id, page.one_more)
        shown, headers = page.cut(rows, request.url, lambda row: Cursor(row["accepted_at"], row["id"]))
        return _json([view(row) for row in shown], headers)

    async def _fetch(self, query: str, *values: object) -> Sequence[asyncpg.Record]:
        async with reading(self._pool, self._timeout_s) as connection:
            return await connection.fetch(query, *values)


def _json(content: object, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    no_store = {"Cache-Control": "no-store", **headers}
    return Response(_encoder.encode(content), media_type="application/json", headers=no_store)
