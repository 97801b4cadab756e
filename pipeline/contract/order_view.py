"""An order as GET answers it, and as events show it."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import StrEnum
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipeline.contract import reasons
from pipeline.contract.cancellations import CancelReason
from pipeline.contract.fields import MetadataText, Moment, OrderId, ProductId, Reference, TotalPrice, UnitPrice
from pipeline.contract.orders import OrderLine


class OrderStatus(StrEnum):
    """The status of an order. All but PENDING are outcomes of the ledger as well."""

    PENDING = "PENDING"
    PROCESSED = "PROCESSED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


def is_over(status: str, *, final: bool) -> bool:
    """Whether nothing changes the order any more: it is FAILED for ever, or CANCELLED."""
    return final and status != OrderStatus.PROCESSED


STATUSES = tuple(it.value for it in OrderStatus)
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
        description="Whether status and reason stay as they are, unless the client cancels a PROCESSED order. False"
        " while the order is PENDING, and while it is FAILED as a dead letter: an operator may fix the cause and replay"
        " it, or discard it."
    ),
]


Lines = Annotated[
    tuple[OrderLine, ...],
    Meta(
        description="Of an order that was sent with `lines`. It has no `product_id`, `quantity` and `unit_price` of its"
        " own, and its `total_price` is the sum."
    ),
]
FailedLine = Annotated[
    int, Meta(description="Which of the lines is the reason: the first that could not be had.", examples=[1])
]
UnitsLeft = Annotated[
    int,
    Meta(description=f"How many units were left, if the reason is {reasons.Reason.OUT_OF_STOCK}.", examples=[3]),
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
    lines: Lines | None = None
    failed_line: FailedLine | None = None
    units_left: UnitsLeft | None = None
    cancelled_at: Moment | None = None
    cancel_reason: CancelReason | None = None

    @property
    def products(self) -> list[str]:
        """The products that it orders; none while it is not stored."""
        if self.lines is not None:
            return [line.product_id for line in self.lines]
        return [] if self.product_id is None else [self.product_id]

    @property
    def is_over(self) -> bool:
        return is_over(self.status, final=self.final)


_values = itemgetter(*OrderView.__struct_fields__)
_encoder = msgspec.json.Encoder(decimal_format="number")
_decode_lines: Callable[[Any], tuple[OrderLine, ...]] = msgspec.json.Decoder(tuple[OrderLine, ...]).decode


def view(row: Any) -> OrderView:
    """The order of a row that has each member by its name."""
    order = OrderView(*_values(row))
    if order.metadata is not None:
        order.metadata = msgspec.Raw(order.metadata)  # the driver reads JSON as a str
    if order.lines is not None:
        _be_basket(order, _decode_lines(order.lines))
    return order


def _be_basket(order: OrderView, lines: tuple[OrderLine, ...]) -> None:
    """Show the lines, instead of the members of the row of line 0."""
    order.lines, order.total_price = lines, sum((line.total_price for line in lines), Decimal(0))
    order.product_id = order.quantity = order.unit_price = None


def encode(order: OrderView) -> bytes:
    return _encoder.encode(order)


def encode_all(orders: Sequence[OrderView]) -> bytes:
    return _encoder.encode(orders)


def encode_list(rows: Sequence[Any]) -> bytes:
    return encode_all([view(row) for row in rows])
