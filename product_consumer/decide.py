"""Decides which orders get the stock. Pure: stock and orders in, verdicts out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.contract.orders import Order
from pipeline.contract.reasons import Reason

PROCESSED, FAILED = "PROCESSED", "FAILED"


@dataclass(frozen=True, slots=True)
class Stock:
    """A product's stock, as locked."""

    qty: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    order_id: str
    product_id: str
    quantity: int
    reason: Reason | None
    """Why the order failed; None: it was processed."""

    @property
    def outcome(self) -> str:
        return PROCESSED if self.reason is None else FAILED


@dataclass(slots=True)
class Decision:
    verdicts: list[Verdict] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)
    """Units taken, by product; products without any are left out."""


def decide(stock: Mapping[str, Stock], orders: Iterable[Order]) -> Decision:
    """Give each order a verdict, in the order of acceptance.

    An order is processed if enough units are left for all of it; orders are never filled in part. A big order that does
    not fit does not block a small one behind it. Never takes more of a product than `stock` has. `orders`: each once.
    """
    decision = Decision()
    left = {product_id: it.qty for product_id, it in stock.items()}
    for order in sorted(orders, key=_acceptance):
        reason = _refusal(stock.get(order.product_id), left, order)
        if reason is None:
            left[order.product_id] -= order.quantity
            decision.taken[order.product_id] = decision.taken.get(order.product_id, 0) + order.quantity
        decision.verdicts.append(Verdict(order.id, order.product_id, order.quantity, reason))
    return decision


def _acceptance(order: Order) -> tuple[object, str]:
    return order.created_at, order.id


def _refusal(stock: Stock | None, left: Mapping[str, int], order: Order) -> Reason | None:
    if stock is None:
        return Reason.UNKNOWN_PRODUCT
    if stock.deleted:
        return Reason.PRODUCT_DELETED
    return None if order.quantity <= left[order.product_id] else Reason.OUT_OF_STOCK
