"""What the accounting is told of orders that a test has made."""

from collections import Counter

from pipeline.contract.orders import AnyOrder, Order, ordered
from proof.accounting import Sent
from proof.orders import Order as SentOrder
from proof.orders import order_of


def sent(*orders: AnyOrder, unknown: tuple[Order, ...] = ()) -> Sent:
    return Sent({it.id: as_sent(it) for it in orders}, unknown=Counter(map(as_sent, unknown)))


def as_sent(it: AnyOrder) -> SentOrder:
    return order_of(ordered(it), it.reference, tuple((it.metadata or {}).items()))
