"""Decides which orders get the stock. Pure: stock and orders in, verdicts out."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from pipeline.contract.order_view import OrderStatus
from pipeline.contract.orders import AnyLine, AnyOrder, Basket, Order, lines_of
from pipeline.contract.reasons import Reason

PROCESSED, FAILED, CANCELLED = OrderStatus.PROCESSED, OrderStatus.FAILED, OrderStatus.CANCELLED


@dataclass(frozen=True, slots=True)
class Stock:
    """A product's stock, as locked."""

    qty: int
    deleted: bool = False


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """A row of stock_ledger. `product_id` and `quantity` are those of an order of one line."""

    order_id: str
    product_id: str | None
    quantity: int | None
    reason: Reason | None = None
    """Why the order failed; None: it was processed, or cancelled."""
    line_count: int | None = None
    """Of a basket."""
    failed_line: int | None = None
    """The first line of a basket that failed."""
    units_left: int | None = None
    """Of the product that is OUT_OF_STOCK."""
    is_cancelled: bool = False

    @property
    def outcome(self) -> str:
        if self.is_cancelled:
            return CANCELLED
        return PROCESSED if self.reason is None else FAILED


@dataclass(slots=True)
class Decision:
    verdicts: list[Verdict] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)
    """Units taken, by product; products without any are left out."""


def decide(stock: Mapping[str, Stock], orders: Iterable[AnyOrder], cancelled: Collection[str] = ()) -> Decision:
    """Give each order a verdict, in the order of acceptance.

    An order is processed if enough units are left for all of it; orders are never filled in part, and a basket gets all
    its lines or none. A big order that does not fit does not block a small one behind it. Never takes more of a product
    than `stock` has. `orders`: each once. `cancelled`: the ids of those whose client has taken them back. They take
    nothing, so the next in line gets it.
    """
    decision = Decision()
    left = {product_id: it.qty for product_id, it in stock.items()}
    for order in sorted(orders, key=_acceptance):
        if order.id in cancelled:
            decision.verdicts.append(_cancelled(order))
            continue
        if isinstance(order, Order):
            reason = _refusal(stock.get(order.product_id), left, order)
            units_left = left[order.product_id] if reason is Reason.OUT_OF_STOCK else None
            verdict = Verdict(order.id, order.product_id, order.quantity, reason, None, None, units_left)
        else:
            verdict = _of_basket(stock, left, order)
        if verdict.reason is None:
            _take(lines_of(order), left, decision.taken)
        decision.verdicts.append(verdict)
    return decision


def _acceptance(order: AnyOrder) -> tuple[object, str]:
    return order.created_at, order.id


def _cancelled(order: AnyOrder) -> Verdict:
    if isinstance(order, Order):
        return Verdict(order.id, order.product_id, order.quantity, is_cancelled=True)
    return Verdict(order.id, None, None, line_count=len(order.lines), is_cancelled=True)


def _of_basket(stock: Mapping[str, Stock], left: Mapping[str, int], basket: Basket) -> Verdict:
    count = len(basket.lines)
    for line in basket.lines:
        reason = _refusal(stock.get(line.product_id), left, line)
        if reason is not None:
            units_left = left[line.product_id] if reason is Reason.OUT_OF_STOCK else None
            return Verdict(basket.id, None, None, reason, count, line.line, units_left)
    return Verdict(basket.id, None, None, None, count)


def _refusal(stock: Stock | None, left: Mapping[str, int], line: AnyLine) -> Reason | None:
    if stock is None:
        return Reason.UNKNOWN_PRODUCT
    if stock.deleted:
        return Reason.PRODUCT_DELETED
    return None if line.quantity <= left[line.product_id] else Reason.OUT_OF_STOCK


def _take(lines: Iterable[AnyLine], left: dict[str, int], taken: dict[str, int]) -> None:
    for line in lines:
        left[line.product_id] -= line.quantity
        taken[line.product_id] = taken.get(line.product_id, 0) + line.quantity
