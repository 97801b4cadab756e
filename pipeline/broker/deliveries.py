"""What the broker delivers, and what a batch of it is."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic


class ClosedBy(Enum):
    """Why a batch was closed."""

    IDLE = "idle"
    """Nothing to linger for: the setting is 0, or the first delivery had already waited that long."""
    LINGER = "linger"
    SIZE = "size"
    """As many orders or deliveries as a batch may have."""
    BYTES = "bytes"
    DRAIN = "drain"
    """The process is stopping."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What closes a batch. A delivery is never split: a batch may exceed `orders` and `size_bytes` by one."""

    orders: int
    size_bytes: int
    deliveries: int
    linger_s: float
    hold_s: float = math.inf
    """How long a message may be here, unacknowledged, before it is given back."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message: a body of orders and what its headers say."""

    tag: int
    body: bytes
    schema: object
    """The version of the body as the header has it; anything at all if the header is wrong, None if it is missing."""
    orders: int
    """How many orders the header promises; 1 if it does not say."""
    redelivered: bool
    deaths: object = None
    """The header x-death, which the broker gives what it dead-letters: a list of tables, the latest death first."""


@dataclass(frozen=True, slots=True)
class Batch:
    deliveries: list[Delivery]
    closed_by: ClosedBy
    epoch: int
    arrived_at: float
    """When the first of it came: loop time."""
    taken_at: float
    """Loop time."""


def delivery_of(message: DeliveredMessage) -> Delivery:
    """A message by its headers; those that do not help count as one order of no version."""
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
