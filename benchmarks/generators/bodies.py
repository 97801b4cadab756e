"""The bodies of a load's requests: what its orders look like. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proof.orders import Line, Order, body_of, order_of

MAX_QUANTITY = 3
# So many different references, one body each: an index whose entries repeat is smaller than a shop's.
DETAILED_BODIES = 50_000


@dataclass(frozen=True)
class Shape:
    """What each order of a load looks like."""

    name: str = "plain"
    """In the names of files."""
    lines: int = 1
    """Of different products, all of which are ordered equally often."""
    is_hot: bool = False
    """One line of each order is of the same product."""
    is_detailed: bool = False
    """Each order has a reference of its own, and two metadata pairs."""


PLAIN = Shape()


def order_bodies(products: Sequence[str], shape: Shape) -> list[bytes]:
    """Bodies of one order each. Together they order every product; no two neighbours order the same one."""
    count = max(len(products), DETAILED_BODIES) if shape.is_detailed else len(products)
    orders = (_order(products, shape, place) for place in range(count))
    return [body_of(order) for order in orders if order is not None]


def _order(products: Sequence[str], shape: Shape, place: int) -> Order | None:
    """None: the hot product would be there twice."""
    lines = list(_lines(products, shape, place))
    if len({product for product, _ in lines}) < len(lines):
        return None
    if not shape.is_detailed:
        return order_of(lines)
    return order_of(lines, f"2026-{place:06}", (("channel", "app"), ("cart", f"c-{place:06}")))


def _lines(products: Sequence[str], shape: Shape, place: int) -> Iterator[Line]:
    step = max(1, len(products) // shape.lines)
    quantity = 1 + place % MAX_QUANTITY
    if shape.is_hot:  # in the middle of the ids, in whose order product_consumer locks
        yield products[len(products) // 2], quantity
    for number in range(int(shape.is_hot), shape.lines):
        yield products[(place + number * step) % len(products)], quantity
