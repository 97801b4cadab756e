"""An order as GET answers it, and as events show it."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipeline.contract import reasons
from pipeline.contract.fields import MetadataText, Moment, OrderId, ProductId, Reference, TotalPrice, UnitPrice

STATUSES = ("PENDING", "PROCESSED", "FAILED")

# For the documents alone.
Status = Annotated[
    str,
    Meta(
        description="PENDING until product_consumer has decided. `final` says whether it may still change.",
        extra_json_schema={"enum": [*STATUSES]},
    ),
]
Reason = Annotated[
    str,
    Meta(
        description=f"Why it is FAILED: {', '.join(reasons.Reason)}. More may come than there are today.",
        examples=[reasons.Reason.OUT_OF_STOCK.value],
    ),
]
Final = Annotated[
    bool,
    Meta(
        description="Whether status and reason stay as they are. False while the order is PENDING, and while it is"
        " FAILED as a dead letter: an operator may fix the cause and replay it, or discard it."
    ),
]


class OrderView(msgspec.Struct, omit_defaults=True):
    """An order as it is answered. Only `id`, `status` and `final` are there for one that is not stored yet."""

    id: OrderId
    status: Status
    final: Final
    product_id: ProductId | None = None
    quantity: int | None = None
    unit_price: UnitPrice | None = None
    total_price: TotalPrice | None = None
    created_at: Moment | None = None
    reference: Reference | None = None
    metadata: MetadataText | None = None
    reason: Reason | None = None


_values = itemgetter(*OrderView.__struct_fields__)
_encoder = msgspec.json.Encoder(decimal_format="number")


def view(row: Any) -> OrderView:
    """The order of a row that has each member by its name."""
    order = OrderView(*_values(row))
    if order.metadata is not None:
        order.metadata = msgspec.Raw(order.metadata)  # the driver reads JSON as a str
    return order


def encode(order: OrderView) -> bytes:
    return _encoder.encode(order)


def encode_all(orders: Sequence[OrderView]) -> bytes:
    return _encoder.encode(orders)


def encode_list(rows: Sequence[Any]) -> bytes:
    return encode_all([view(row) for row in rows])
