"""The rows of orders: a row of the table `orders` is a line.

    an order of one line    one row, which is the Order itself
    a basket                a row for each line. `id`, `accepted_at` and `client` are in each, because the indexes of
                            lists need them there. Whatever else belongs to the whole order is in the row of line 0

So a query for orders reads rows with `line = 0`, and joins the others where it wants the lines.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
from msgspec.structs import astuple

from pipeline.contract.columns import Column, selected
from pipeline.contract.orders import ANSWERED, COLUMNS, OF_BASKET, AnyOrder, Basket, Order, OrderLine

_OF_LINE = OrderLine.__struct_fields__
_OF_EACH = ("id", "created_at", "client")
_OF_FIRST = tuple(it.member for it in COLUMNS if it.member not in (*_OF_LINE, *_OF_EACH))

_BasketRow: Any = msgspec.defstruct("_BasketRow", [*_OF_LINE, "line_count", *_OF_EACH, *_OF_FIRST], gc=False)
_each, _first = attrgetter(*_OF_EACH), attrgetter("id", *_OF_FIRST)
_lines, _id = attrgetter("lines"), itemgetter("id")
_NOTHING = (None,) * len(_OF_FIRST)
_BASKET_COLUMNS = (*COLUMNS, *OF_BASKET)
_LINE_OBJECT = ", ".join(f"'{name}', {name}" for name in _OF_LINE)


def rows_of(orders: Sequence[AnyOrder]) -> tuple[Sequence[Column], Sequence[object]]:
    """The columns to write, and the rows: those of each order together, in the order of their lines.

    Orders of one line are returned as they are, and the default values of the other columns are theirs.
    """
    if not any(map(_lines, orders)):
        return COLUMNS, orders
    return _BASKET_COLUMNS, [row for it in orders for row in ((it,) if isinstance(it, Order) else _rows(it))]


def _rows(basket: Basket) -> Iterator[object]:
    count, each = len(basket.lines), _each(basket)
    rest = _first(basket)[1:]
    for line in basket.lines:
        yield _BasketRow(*astuple(line), count, *each, *rest)
        rest = _NOTHING


def orders_of(rows: Iterable[Any], columns: Sequence[Column] = COLUMNS) -> Iterator[AnyOrder]:
    """The orders of rows that have the members of `columns` and OF_BASKET, those of an order together and by line.

    Leaves out a basket of which a line is missing: it is no order.
    """
    for _, lines in groupby(rows, _id):
        first, *others = lines
        count = first["line_count"]
        if count is None:
            yield _order(first, columns)
        elif [first["line"], *(it["line"] for it in others)] == list(range(count)):
            yield _basket([first, *others], columns)


def _order(row: Any, columns: Sequence[Column]) -> Order:
    """An order of one line as it was accepted, from a row that has each of `columns` by the name of its member."""
    return Order(**_members(row, columns), status="PENDING")


def _members(row: Any, columns: Iterable[Column]) -> dict[str, Any]:
    return {it.member: it.value_of(row[it.member]) for it in columns}


def _basket(rows: Sequence[Any], columns: Sequence[Column]) -> Basket:
    lines = tuple(OrderLine(**{name: row[name] for name in _OF_LINE}) for row in rows)
    total = sum((it.total_price for it in lines), Decimal(0))
    shared = _members(rows[0], (it for it in columns if it.member not in _OF_LINE))
    return Basket(**shared, lines=lines, total_price=total, status="PENDING")


def selected_members(table: str) -> str:
    """A SELECT list of what a client sees of an order, without its id. `table`: the alias of the order's row of line 0.

    `lines` is JSON text, and null for an order of one line. For a basket, the members of line 0 mean nothing else.
    """
    lines = f"SELECT json_agg(json_build_object({_LINE_OBJECT}) ORDER BY line) FROM orders WHERE id = {table}.id"
    return f"""
    {selected((it for it in ANSWERED if it.name != "id"), table)},
    CASE WHEN {table}.line_count IS NOT NULL THEN ({lines}) END AS lines
    """.strip()
