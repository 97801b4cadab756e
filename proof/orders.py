"""What a load orders: one order as its client sends it, and the mix that a load is made of.

The demo, the chaos suite and the benchmarks take their orders and bodies from here; proof.accounting compares them with
the rows in PostgreSQL.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import msgspec

from proof.load_result import Request

MAX_LINES = 50
"""Of an order. A test compares it with the contract's: the proof imports nothing of what it proves."""

Line: TypeAlias = tuple[str, int]
"""Product and quantity."""

# What COPY, JSON or a careless comparison might change. PostgreSQL cannot store a NUL.
_ENDS = ("", "-a", " ü", "\t\\N", '"', "\u2028", "e\u0301", "\U0001f4e6", "\\.", "',--")


class Order(NamedTuple):
    """What one request asks for."""

    product_id: str
    quantity: int
    more: tuple[Line, ...] = ()
    """The lines behind the first."""
    reference: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    """The pairs in the client's order, which is kept."""

    @property
    def lines(self) -> tuple[Line, ...]:
        return (self[:2], *self.more)

    @property
    def without_details(self) -> Order:
        """As a verdict knows it."""
        return self if self.reference is None and not self.metadata else Order(*self[:3])


def order_of(lines: Sequence[Line], reference: str | None = None, metadata: tuple[tuple[str, str], ...] = ()) -> Order:
    (product_id, quantity), *more = lines
    return Order(product_id, quantity, tuple(more), reference, metadata)


def body_of(order: Order) -> bytes:
    """The JSON that orders it: of one line as `productId` and `quantity`, of several as `lines`."""
    lines = [{"productId": product_id, "quantity": quantity} for product_id, quantity in order.lines]
    body: dict[str, Any] = {"lines": lines} if order.more else {**lines[0]}
    if order.reference is not None:
        body["reference"] = order.reference
    if order.metadata:
        body["metadata"] = dict(order.metadata)
    return msgspec.json.encode(body)


@dataclass(frozen=True, slots=True)
class Mix:
    """What the orders of a load look like. Shares are from 0 to 1. Raises ValueError for a mix that cannot be sent."""

    lines: int = 1
    """Of a basket."""
    baskets: float = 1.0
    """The share of orders that are baskets. The others have one line."""
    detailed: float = 0.0
    """The share with a reference and metadata."""
    pairs: int = 2
    """Of metadata."""
    cancelled: float = 0.0
    """The share that is cancelled at once after the 202."""

    def __post_init__(self) -> None:
        if not 1 <= self.lines <= MAX_LINES:
            raise ValueError(f"an order has 1 to {MAX_LINES} lines, not {self.lines}")
        if not all(0 <= share <= 1 for share in (self.baskets, self.detailed, self.cancelled)):
            raise ValueError("a share is from 0 to 1")

    def draw(self, rng: random.Random, pick: Callable[[int], Sequence[Line]]) -> Order:
        """One order. `pick`: draws so many lines of different products."""
        lines = pick(self.lines if rng.random() < self.baskets else 1)
        if rng.random() >= self.detailed:
            return order_of(lines)
        pairs = ((f"key {number}{rng.choice(_ENDS)}", _text(rng)) for number in range(self.pairs))
        return order_of(lines, _text(rng), tuple(pairs))

    def is_cancelled(self, rng: random.Random) -> bool:
        """Draw whether the client cancels its order at once."""
        return self.cancelled > 0 and rng.random() < self.cancelled


def cancelling(url: str, order_id: str, token: str | None = None) -> Request[str]:
    """The request that cancels an order. `url`: where orders are posted."""
    return Request.post(f"{url}/{order_id}/cancel", b"", order_id, token)


def _text(rng: random.Random) -> str:
    """A text that identifies its order, and that a careless writer or reader changes."""
    return f"{rng.getrandbits(48):012x}{rng.choice(_ENDS)}"
