"""Orders for tests, as ingest_api makes them."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import AnyOrder, Basket, Order, OrderLine, encode_order, join_orders

T0 = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

_ids = OrderIds("6b" * 32)


def new_product_id() -> str:
    return str(uuid.uuid4())


def order(product_id: str, quantity: int = 1, *, price: str = "12.50", at_ms: int = 0, **changes: object) -> Order:
    """A well-formed order, accepted `at_ms` after T0. `changes`: fields to set, even to invalid values."""
    fields: dict[str, object] = {
        "id": _ids.mint(),
        "product_id": product_id,
        "quantity": quantity,
        "unit_price": Decimal(price),
        "total_price": Decimal(price) * quantity,
        "created_at": T0 + timedelta(milliseconds=at_ms),
        "status": "PENDING",
    }
    return Order(**{**fields, **changes})  # type: ignore[arg-type]


def basket(*wanted: tuple[str, int], price: str = "12.50", at_ms: int = 0, **changes: object) -> Basket:
    """A well-formed basket of these products and quantities. `changes`: as of `order`."""
    unit = Decimal(price)
    lines = tuple(OrderLine(at, it, quantity, unit, unit * quantity) for at, (it, quantity) in enumerate(wanted))
    fields: dict[str, object] = {
        "id": _ids.mint(),
        "lines": lines,
        "total_price": unit * sum(quantity for _, quantity in wanted),
        "created_at": T0 + timedelta(milliseconds=at_ms),
        "status": "PENDING",
    }
    return Basket(**{**fields, **changes})  # type: ignore[arg-type]


def body_of(*orders: AnyOrder) -> bytes:
    """A message body."""
    return join_orders(map(encode_order, orders))


def by_id(*orders: AnyOrder) -> dict[str, AnyOrder]:
    return {it.id: it for it in orders}


def accepted_at_ms(order_id: str) -> int:
    """The Unix milliseconds in an order's id."""
    return uuid.UUID(order_id).int >> 80
