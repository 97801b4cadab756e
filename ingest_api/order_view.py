"""An order as it is answered."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from ingest_api.stored_orders import Row
from pipeline.fields import Moment, OrderId, ProductId, TotalPrice, UnitPrice

# For the documents alone.
Status = Annotated[
    str,
    Meta(
        description="PENDING until product_consumer has decided; PROCESSED and FAILED are for ever.",
        extra_json_schema={"enum": ["PENDING", "PROCESSED", "FAILED"]},
    ),
]
Reason = Annotated[
    str,
    Meta(description="Why it is FAILED. More may come than there are today.", examples=["out_of_stock"]),
]


class OrderView(msgspec.Struct, omit_defaults=True):
    """An order as it is answered. Only `id` and `status` are there for one that is not stored yet."""

    id: OrderId
    status: Status
    product_id: ProductId | None = None
    quantity: int | None = None
    unit_price: UnitPrice | None = None
    total_price: TotalPrice | None = None
    created_at: Moment | None = None
    reason: Reason | None = None


_encoder = msgspec.json.Encoder(decimal_format="number")


def view(row: Row) -> OrderView:
    return OrderView(
        id=row["id"],
        status=row["status"],
        product_id=row["product_id"],
        quantity=row["quantity"],
        unit_price=row["unit_price"],
        total_price=row["total_price"],
        created_at=row["accepted_at"],
        reason=row["reason"],
    )


def encode(order: OrderView) -> bytes:
    return _encoder.encode(order)


def encode_list(rows: Sequence[Row]) -> bytes:
    return _encoder.encode([view(row) for row in rows])
