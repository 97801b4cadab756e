"""Deliveries of the broker, batches of them, and the limits that close a batch."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic


class ClosedBy(Enum):
    """Why a batch was closed."""

    IDLE = "idle"
    """Without lingering: `linger_s` is 0, or the first delivery had already waited that long."""
    LINGER = "linger"
    SIZE = "size"
    """The batch reached its limit of orders or deliveries."""
    BYTES = "bytes"
    DRAIN = "drain"
    """The process is stopping."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits that close a batch. A delivery is never split: its last one may exceed `orders` and `size_bytes`."""

    orders: int
    size_bytes: int
    deliveries: int
    linger_s: float
    hold_s: float = math.inf
    """How long a message may stay unacknowledged before it is returned to the broker."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message: a body of orders and what its headers say."""

    tag: int
    body: bytes
    schema: object
    """The body's version, as the header has it; any value if the header is wrong, None if it is missing."""
    orders: int
    """The number of orders by the header; 1 if it does not say."""
    redelivered: bool
    deaths: object = None
    """The x-death header that the broker adds when it dead-letters: a list of tables, the latest death first."""


@dataclass(frozen=True, slots=True)
class Batch:
    deliveries: list[Delivery]
    closed_by: ClosedBy
    epoch: int
    arrived_at: float
    """When its first delivery arrived: loop time."""
    taken_at: float
    """Loop time."""


def delivery_of(message: DeliveredMessage) -> Delivery:
    """Read a message's headers. Without usable ones, it counts as one order of no version."""
    frame = message.delivery
    assert isinstance(frame, Basic.Deliver)
    headers: dict[str, Any] = message.header.properties.headers or {}
    orders = headers.get("orders")
    return Delivery(
        tag=frame.delivery_tag or 0,
        body=message.body,
        schema=headers.get("schema"),
        orders=orders if isinstance(orders, int) and orders > 0 else 1,
        redelivered=bool(frame.redelivered),
        deaths=headers.get("x-death"),
    )
