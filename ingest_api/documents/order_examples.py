"""Orders as clients send them, and as they are answered, for the documents. The products are those of the demo."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from pipeline.contract.fields import (
    EXAMPLE_METADATA,
    EXAMPLE_ORDER,
    EXAMPLE_OTHER_PRODUCT,
    EXAMPLE_PRODUCT,
    EXAMPLE_REFERENCE,
)
from pipeline.contract.order_view import OrderView
from pipeline.contract.orders import AnyOrder, Basket, Order, OrderLine
from pipeline.contract.reasons import Reason

_DETAILS = {"reference": EXAMPLE_REFERENCE, "metadata": EXAMPLE_METADATA}

# ── requests

REQUEST = {"productId": EXAMPLE_PRODUCT, "quantity": 2}
DETAILED_REQUEST = REQUEST | _DETAILS
BASKET_REQUEST = {"lines": [REQUEST, {"productId": EXAMPLE_OTHER_PRODUCT, "quantity": 1}]}
NDJSON = f'{{"productId":"{EXAMPLE_PRODUCT}","quantity":2}}\n{{"productId":"{EXAMPLE_PRODUCT}","quantity":1}}\n'

# ── accepted

ACCEPTED = Order(
    EXAMPLE_ORDER,
    EXAMPLE_PRODUCT,
    2,
    Decimal("1500.00"),
    Decimal("3000.00"),
    datetime(2026, 1, 5, 9, 30, 0, 123456, UTC),
    "PENDING",
)
DETAILED = msgspec.structs.replace(ACCEPTED, reference=EXAMPLE_REFERENCE, metadata=EXAMPLE_METADATA)
BASKET = Basket(
    id=EXAMPLE_ORDER,
    lines=(
        OrderLine(0, EXAMPLE_PRODUCT, 2, Decimal("1500.00"), Decimal("3000.00")),
        OrderLine(1, EXAMPLE_OTHER_PRODUCT, 1, Decimal("89.90"), Decimal("89.90")),
    ),
    total_price=Decimal("3089.90"),
    created_at=ACCEPTED.created_at,
    status="PENDING",
)

# ── read


def _read(order: AnyOrder, **verdict: Any) -> OrderView:
    shown = {name: value for name in OrderView.__struct_fields__ if (value := getattr(order, name, None)) is not None}
    return OrderView(**{**shown, **verdict})


PROCESSED = _read(ACCEPTED, status="PROCESSED", final=True)
FAILED = _read(ACCEPTED, status="FAILED", final=True, reason=Reason.OUT_OF_STOCK, units_left=1)
FAILED_BASKET = _read(BASKET, status="FAILED", final=True, reason=Reason.OUT_OF_STOCK, failed_line=1, units_left=0)
PARKED = OrderView(EXAMPLE_ORDER, "FAILED", final=False, reason=Reason.INVALID_DATA)
NOT_STORED = OrderView(EXAMPLE_ORDER, "PENDING", final=False)
