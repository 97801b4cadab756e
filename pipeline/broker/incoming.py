"""Decodes the deliveries of a batch into orders, and sets unreadable parts aside."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.broker.deliveries import Delivery
from pipeline.contract.orders import (
    SCHEMA,
    SCHEMAS,
    AnyOrder,
    InvalidOrder,
    decode_body,
    decode_order,
    id_in,
    join_bodies,
    latest_schema,
    split_body,
)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Part of a message, or all of it, that is not an order. `body` has the form of a message body if possible."""

    body: bytes
    detail: str
    schema: object = SCHEMA
    """The version that the message gives."""
    order_id: str | None = None
    """The id of the one order that it was meant to be, if readable: so GET on that id has an answer (P4)."""

    @property
    def unknown_schema(self) -> bool:
        return self.schema not in SCHEMAS


@dataclass(frozen=True, slots=True)
class Incoming:
    orders: Sequence[AnyOrder]
    """In the order of arrival, duplicates included."""
    unreadable: list[Unreadable]
    body: bytes | None
    """All of `orders` as one message body, if that takes no encoding; None if any part was unreadable."""
    schema: int = SCHEMA
    """The version that a message with `orders` says: the latest of those that they came in."""


def read(deliveries: Iterable[Delivery]) -> Incoming:
    """Decode a batch. Never raises: one bad order costs only itself (P10).

    A message whose JSON is broken, such as a truncated body, is unreadable as a whole: nothing tells where its elements
    begin and end.
    """
    orders: list[AnyOrder] = []
    unreadable: list[Unreadable] = []
    bodies: list[bytes] = []
    said: list[object] = []
    for delivery in deliveries:
        try:
            decoded = _decode(delivery)
        except InvalidOrder:
            _pick_out(delivery, orders, unreadable)
            said.append(delivery.schema)
        else:
            if isinstance(decoded, Unreadable):
                unreadable.append(decoded)
            elif decoded:
                orders += decoded
                bodies.append(delivery.body)
                said.append(delivery.schema)
    body = join_bodies(bodies) if bodies and not unreadable else None
    return Incoming(orders, unreadable, body, latest_schema(said))


def _decode(delivery: Delivery) -> Sequence[AnyOrder] | Unreadable:
    if delivery.schema not in SCHEMAS:
        known = " and ".join(map(str, SCHEMAS))
        detail = f"the message says schema {delivery.schema!r}; this worker reads {known}"
        return Unreadable(delivery.body, detail, delivery.schema)
    return decode_body(delivery.body)


def _pick_out(delivery: Delivery, orders: list[AnyOrder], unreadable: list[Unreadable]) -> None:
    """Decode one by one the elements of a body of which at least one is bad."""
    try:
        elements = split_body(delivery.body)
    except InvalidOrder as error:
        unreadable.append(Unreadable(delivery.body, str(error), delivery.schema))
        return
    for element in elements:
        try:
            orders.append(decode_order(element))
        except InvalidOrder as error:
            unreadable.append(Unreadable(b"[" + element + b"]", str(error), delivery.schema, id_in(element)))
