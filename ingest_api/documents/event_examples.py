"""The events that the documents show: OpenAPI and AsyncAPI."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pipeline.contract.fields import EXAMPLE_ORDER, EXAMPLE_PRODUCT
from pipeline.contract.order_events import EventType, OrderEvent, encode_cursor
from pipeline.contract.order_view import OrderView
from pipeline.contract.reasons import Reason

CURSOR = encode_cursor(0x1F1510C, 42)


def _example(event_type: EventType, sequence: int = 1, **order: Any) -> OrderEvent:
    return OrderEvent(
        f"{EXAMPLE_ORDER}.{sequence}",
        CURSOR,
        event_type,
        sequence,
        datetime(2026, 1, 5, 9, 30, 0, 154321, UTC),
        OrderView(EXAMPLE_ORDER, **order),
    )


_STORED: dict[str, Any] = {
    "product_id": EXAMPLE_PRODUCT,
    "quantity": 2,
    "unit_price": Decimal("1500.00"),
    "total_price": Decimal("3000.00"),
    "created_at": datetime(2026, 1, 5, 9, 30, 0, 123456, UTC),
}
PROCESSED = _example(EventType.PROCESSED, status="PROCESSED", final=True, **_STORED)
FAILED = _example(EventType.FAILED, status="FAILED", final=True, reason=Reason.OUT_OF_STOCK, **_STORED)
CANCELLED = _example(
    EventType.CANCELLED,
    sequence=2,
    status="CANCELLED",
    final=True,
    cancelled_at=datetime(2026, 1, 5, 9, 31, 12, 654321, UTC),
    cancel_reason="the customer changed her mind",
    **_STORED,
)
PARKED = _example(EventType.PARKED, status="FAILED", final=False, reason=Reason.INVALID_DATA)
