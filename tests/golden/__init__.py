"""What is in queues and in dead letters, byte by byte: messages of every schema that was ever written.

A file here is never changed. A change of what is written is either a superset that the readers of before take as well
(then there is a new file beside these), or a new schema (then there is a new directory, and this one stays).
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from pipeline.contract.cancellations import Cancellation
from pipeline.contract.orders import AnyOrder, Basket, Order, OrderLine


class Golden(NamedTuple):
    """The messages of one schema."""

    name: str
    orders: list[AnyOrder]
    """What both bodies say."""
    accepted: bytes
    """The body of an `order.accepted`, as ingest_api publishes it."""
    created: bytes
    """The body of the `order.created` that persist_worker makes of it: the same, today."""
    properties: dict[str, Any]
    """Of both messages. Beside these, AMQP has nothing that a reader looks at."""

    @property
    def schema(self) -> int:
        return int(self.properties["headers"]["schema"])


def _read(name: str, orders: Sequence[AnyOrder]) -> Golden:
    directory = Path(__file__).parent / name
    accepted, created = ((directory / f"order.{it}.json").read_bytes() for it in ("accepted", "created"))
    return Golden(name, [*orders], accepted, created, json.loads((directory / "properties.json").read_text()))


_LAPTOP, _PEN = "8c1f4f0e-3c51-4f58-9c0a-0d6f3c1f7a11", "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"
_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

_PLAIN = [
    Order("019b7cb6-152e-8ad2-a96d-2d2a00000001", _LAPTOP, 2, Decimal("1500.00"), Decimal("3000.00"), _AT, "PENDING"),
    Order(
        "019b7cb6-152e-8ad2-a96d-2d2a01000002",
        _PEN,
        1,
        Decimal("0.10"),
        Decimal("0.10"),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "PENDING",
        traceparent=_TRACE,
    ),
    Order(
        "019b7cb6-152e-8ad2-a96d-2d2a02000003",
        _LAPTOP,
        1_000_000,
        Decimal("9999999999.99"),
        Decimal("9999999999990000.00"),
        _AT,
        "PENDING",
        request_hash="00ff" * 16,
        client="shop",
    ),
    Order(
        "5f0c9e5e-0a4d-8b7c-9d1f-6a1b2c3d4e5f",
        _PEN,
        3,
        Decimal("89.90"),
        Decimal("269.70"),
        _AT,
        "PENDING",
        traceparent=_TRACE,
        request_hash="a0" * 32,
        client="a.b-c_9",
    ),
]
# Of schema 2: a plain order beside orders with a reference, with metadata, and with both.
_DETAILED = [
    _PLAIN[0],
    replace(_PLAIN[1], reference="4711-a"),
    replace(_PLAIN[2], metadata={"cart": "c-80211"}),
    replace(
        _PLAIN[3],
        reference='\x01\x7f "\\N"\t\r\n\u2028 \u202e שלום é e\u0301 \U0001f600 \uffff',
        metadata={"channel": "", "/~0": "東京"},
    ),
]
# Of schema 2 too: baskets of one line and of two, beside an order of one product.
_BASKETS: list[AnyOrder] = [
    Basket(
        id="019b7cb6-152e-8ad2-a96d-2d2a03000004",
        lines=(OrderLine(0, _PEN, 1, Decimal("0.10"), Decimal("0.10")),),
        total_price=Decimal("0.10"),
        created_at=_AT,
        status="PENDING",
    ),
    _PLAIN[0],
    Basket(
        id="5f0c9e5e-0a4d-8b7c-9d1f-6a1b2c3d4e60",
        lines=(
            OrderLine(0, _PEN, 1_000_000, Decimal("9999999999.99"), Decimal("9999999999990000.00")),
            OrderLine(1, _LAPTOP, 1, Decimal("1500.00"), Decimal("1500.00")),
        ),
        total_price=Decimal("9999999999991500.00"),
        created_at=_AT,
        status="PENDING",
        reference="4711-a",
        metadata={"cart": "c-80211"},
        traceparent=_TRACE,
        request_hash="a0" * 32,
        client="shop",
    ),
]
V1, V2, V2_OF_LINES = _read("v1", _PLAIN), _read("v2", _DETAILED), _read("v2_of_lines", _BASKETS)
GOLDEN = (V1, V2, V2_OF_LINES)


class GoldenCancellations(NamedTuple):
    """The message of one schema of cancellations."""

    cancellations: list[Cancellation]
    requested: bytes
    """The body of an `order.cancel_requested`, as ingest_api publishes it."""


CANCEL_V1 = GoldenCancellations(
    [
        Cancellation("019b7cb6-152e-8ad2-a96d-2d2a00000001", _AT),
        Cancellation(
            "5f0c9e5e-0a4d-8b7c-9d1f-6a1b2c3d4e60",
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            client="shop",
            sees_all=True,
            reason='\x01 "\\N" שלום \U0001f600',
        ),
    ],
    (Path(__file__).parent / "cancel_v1" / "order.cancel_requested.json").read_bytes(),
)
