"""Which index a list of orders is read from, newest first, and where a page of it ends at the latest.

An index answers some filters by itself; the others are looked at row by row. A page examines MOST_ROWS rows of one
index, so it takes a bounded time, however few orders the filters let through. It may hold fewer orders than its limit,
or none, and still not be the last. The next page goes on where it ended.

Several indexes may serve: those of a client's orders and of a product's orders both find the client's orders of the
product. `ends_query` asks each for the time of the last row that a page may examine, which reads no row of `orders`.
The page is read from the index that gets furthest back. It covers a stretch of time, so whatever is stored between the
two questions is on this page or newer than it: nothing is skipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from pipeline.contract.cancellations import IS_EFFECTIVE
from pipeline.contract.order_view import OrderStatus
from web.requests.paging import Cursor, Page

MOST_ROWS = 1_000
"""Rows that one page examines. With ten million orders, PostgreSQL took 1 to 14 ms of CPU for a page, whatever the
filters (benchmarks/experiments/order_lists.py).
"""

_FIRST_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The orders that a list is of. None: any."""

    owner: str | None = None
    product: str | None = None
    reference: str | None = None
    status: str | None = None

    @property
    def filters(self) -> dict[str, str]:
        """Those that are set, by name."""
        values = {it.name: getattr(self, it.name) for it in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Stretch:
    """The time that a page may cover: from `since` on, and below `before`."""

    before: Cursor
    since: datetime | None = None

    @classmethod
    def of(cls, page: Page, since: datetime | None = None, until: datetime | None = None) -> "Stretch":
        """`until`: the first moment that is too late."""
        before = page.before if until is None else min(page.before, below(until), key=lambda it: (it.at, it.id))
        return cls(before, since)


def below(moment: datetime) -> Cursor:
    """The cursor of a page that begins before the moment."""
    return Cursor(moment, _FIRST_ID)


@dataclass(frozen=True, slots=True)
class Walk:
    """An index, read from a moment backwards. `o` is a row of `orders`."""

    name: str
    table: str
    at: str
    id: str
    needs: frozenset[str]
    """The filters without which the index is of no use."""
    condition: str
    """SQL that the index answers; {owner} stands for the value of that filter."""
    join: str = ""
    """How a row of `table` leads to its order."""
    is_exact: bool = True
    """Whether the orders that it finds pass the filters that it needs."""
    status: str | None = None
    """The one status that it serves; None: any."""

    def left_of(self, wanted: Wanted) -> frozenset[str]:
        """The filters that are looked at row by row."""
        return frozenset(wanted.filters) - (self.needs if self.is_exact else frozenset())


def _of_orders(name: str, needs: Sequence[str], condition: str) -> Walk:
    return Walk(name, "orders o", "o.accepted_at", "o.id", frozenset(needs), condition)


_NEWEST = _of_orders("orders_newest", (), "o.line = 0")
_FAILED = Walk(
    "failed_orders",
    "failed_orders f",
    "f.accepted_at",
    "f.order_id",
    frozenset({"status"}),
    "true",
    "JOIN orders o ON o.id = f.order_id AND o.accepted_at = f.accepted_at AND o.line = 0",
    is_exact=False,
    status=OrderStatus.FAILED,
)
_CANCELLED = Walk(
    "cancellations_listed",
    "cancellations c",
    "c.accepted_at",
    "c.order_id",
    frozenset({"status"}),
    f"c.{IS_EFFECTIVE}",
    "JOIN orders o ON o.id = c.order_id AND o.line = 0",
    status=OrderStatus.CANCELLED,
)
# The best first: of two that get equally far, the first is taken.
_WALKS = (
    _of_orders("orders_of_reference", ["reference"], "o.line = 0 AND o.reference = {reference}"),
    _of_orders("orders_of_client", ["owner"], "o.line = 0 AND o.client = {owner}"),
    # Whichever line it is: an order has a product once.
    Walk(
        "orders_with_product",
        "orders m",
        "m.accepted_at",
        "m.id",
        frozenset({"product"}),
        "m.product_id = {product}",
        "JOIN orders o ON o.id = m.id AND o.line = 0",
    ),
    _FAILED,
    _CANCELLED,
)
# What is looked at row by row, but for the status: that is stored_orders's.
_CONDITIONS = {
    "owner": "o.client = {owner}",
    "reference": "o.reference = {reference}",
    "product": "(o.product_id = {product} OR (o.line_count IS NOT NULL"
    " AND EXISTS (SELECT FROM orders p WHERE p.id = o.id AND p.product_id = {product})))",
}


def walks_for(wanted: Wanted) -> Sequence[Walk]:
    """The indexes that serve, at least one."""
    filters = frozenset(wanted.filters)
    serving = [it for it in _WALKS if it.needs <= filters and it.status in (None, wanted.status)]
    return serving or [_NEWEST]


@dataclass(frozen=True, slots=True)
class Query:
    sql: str
    values: Sequence[object]


def ends_query(walks: Sequence[Walk], wanted: Wanted, stretch: Stretch, page: Page) -> Query:
    """For each walk, by its place: the time of the last row that the page may examine. No row: it examines all."""
    values = _Values(wanted)
    parts = [_end(place, walk, page, wanted, values, stretch) for place, walk in enumerate(walks)]
    return Query(" UNION ALL ".join(parts), values.all)


def _end(place: int, walk: Walk, page: Page, wanted: Wanted, values: "_Values", stretch: Stretch) -> str:
    # If the index answers all, every row that is examined is shown, but for the one that tells of a next page.
    last = MOST_ROWS if walk.left_of(wanted) else page.one_more
    where = f"{walk.condition.format_map(values.names)} AND {values.within(walk, stretch)}"
    return (
        f"(SELECT {place} AS walk, {walk.at} AS at FROM {walk.table} WHERE {where}"
        f" ORDER BY {walk.at} DESC OFFSET {last - 1} LIMIT 1)"
    )


def furthest(walks: Sequence[Walk], ends: Mapping[int, datetime]) -> tuple[Walk, datetime | None]:
    """The walk whose page gets furthest back, and where that ends; None: it ends the list. `ends`: by place."""
    for place, walk in enumerate(walks):
        if place not in ends:
            return walk, None
    place = min(ends, key=lambda it: (ends[it], it))
    return walks[place], ends[place]


def page_query(
    walk: Walk, wanted: Wanted, stretch: Stretch, page: Page, columns: str, joins: str, statuses: Mapping[str, str]
) -> Query:
    """The rows of a page and one more. `columns`, `joins`: what is selected of an order `o`, and what it takes to know
    its status. `statuses`: conditions, by status.
    """
    values = _Values(wanted)
    left = walk.left_of(wanted)
    conditions = [text.format_map(values.names) for name, text in _CONDITIONS.items() if name in left]
    if "status" in left and wanted.status is not None:
        conditions.append(statuses[wanted.status])
    # OFFSET 0 keeps the other conditions out, so PostgreSQL takes the index that the stretch was measured with.
    walked = (
        f"SELECT o.* FROM {walk.table} {walk.join}"
        f" WHERE {walk.condition.format_map(values.names)} AND {values.within(walk, stretch)}"
        f" ORDER BY {walk.at} DESC, {walk.id} DESC OFFSET 0"
    )
    sql = (
        f"SELECT {columns} FROM ({walked}) o {joins} WHERE {' AND '.join(conditions) or 'true'}"
        f" ORDER BY o.accepted_at DESC, o.id DESC LIMIT {page.one_more}"
    )
    return Query(sql, values.all)


class _Values:
    """Numbers the values of a query as it is written. A filter that no part of it names has no number."""

    def __init__(self, wanted: Wanted) -> None:
        self.all: list[object] = []
        self.names = _Names(wanted.filters, self)

    def put(self, value: object, sql_type: str) -> str:
        self.all.append(value)
        return f"${len(self.all)}::{sql_type}"

    def within(self, walk: Walk, stretch: Stretch) -> str:
        """The condition that a row lies in the stretch."""
        at, order_id = self.put(stretch.before.at, "timestamptz"), self.put(stretch.before.id, "uuid")
        # `<=` says nothing more, but lets PostgreSQL estimate how little lies between two times. From the comparison of
        # rows alone it guesses at a third of the table.
        parts = [f"{walk.at} <= {at}", f"({walk.at}, {walk.id}) < ({at}, {order_id})"]
        if stretch.since is not None:
            parts.append(f"{walk.at} >= {self.put(stretch.since, 'timestamptz')}")
        return " AND ".join(parts)


class _Names(dict[str, str]):
    """Numbers a filter when it is first named."""

    def __init__(self, filters: Mapping[str, str], values: _Values) -> None:
        super().__init__()
        self._filters, self._values = filters, values

    def __missing__(self, name: str) -> str:
        self[name] = self._values.put(self._filters[name], "uuid" if name == "product" else "text")
        return self[name]
