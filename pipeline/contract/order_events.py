"""Events of orders: what happened, for every service that comes after. The log of them is database/event_log.py."""

import base64
import binascii
import struct
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from pipeline.contract.fields import EXAMPLE_ORDER, Moment
from pipeline.contract.order_view import OrderView


class EventType(StrEnum):
    """What can happen to an order. It is also the routing key in RabbitMQ."""

    meaning: str
    """One sentence or two, for a client."""

    def __new__(cls, name: str, meaning: str) -> "EventType":
        event_type = str.__new__(cls, name)
        event_type._value_, event_type.meaning = name, meaning
        return event_type

    PROCESSED = "order.processed", "The order was decided, and its units were taken from the stock. Final."
    FAILED = "order.failed", "The order was decided, and it gets nothing; `order.reason` says why. Final."
    CANCELLED = (
        "order.cancelled",
        "Its client has cancelled the order. It takes no stock, or its units went back. Final.",
    )
    PARKED = "order.parked", "The order waits for an operator, who replays it or gives it up. Then an event follows."


EventId = Annotated[
    str,
    Meta(
        description="The order's id and the sequence. The same each time the event is delivered: drop what you have"
        " seen.",
        examples=[f"{EXAMPLE_ORDER}.1"],
    ),
]
EventCursor = Annotated[
    str,
    Meta(
        description="The place of the event in the log. Opaque: send it back as `after`, or as `Last-Event-ID`.",
        examples=["AfFRDAAAAAAAAAAq"],
    ),
]
Sequence = Annotated[
    int,
    Meta(description="Which event of its order it is: 1, 2, and so on, without gaps.", ge=1, examples=[1]),
]
EventName = Annotated[
    str,
    Meta(
        description=" ".join(f"`{it}`: {it.meaning}" for it in EventType) + " More may come than there are today.",
        examples=[EventType.PROCESSED.value],
    ),
]


class OrderEvent(msgspec.Struct, frozen=True):
    """An event as clients, RabbitMQ and webhooks get it."""

    id: EventId
    cursor: EventCursor
    type: EventName
    sequence: Sequence
    at: Moment
    """When the order was decided, cancelled or parked. UTC."""
    order: OrderView


class InvalidCursor(ValueError):
    """Text that is no cursor of a log."""


_CURSOR = struct.Struct(">IQ")
_encoder = msgspec.json.Encoder(decimal_format="number")


def encode_event(event: OrderEvent) -> bytes:
    return _encoder.encode(event)


def join_events(encoded: Iterable[bytes]) -> bytes:
    """A JSON array of encoded events."""
    return b"[" + b",".join(encoded) + b"]"


def encode_cursor(log_id: int, offset: int) -> str:
    """`log_id`: of event_log.id, so that a cursor of another database is refused. `offset`: of the last event read."""
    return base64.urlsafe_b64encode(_CURSOR.pack(log_id, offset)).decode()


def decode_cursor(text: str) -> tuple[int, int]:
    """The log's id and the offset. Raises InvalidCursor."""
    try:
        log_id, offset = _CURSOR.unpack(base64.b64decode(text, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, struct.error) as error:
        raise InvalidCursor(text) from error
    if offset >= 2**63:
        raise InvalidCursor(text)
    return log_id, offset
