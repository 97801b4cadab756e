"""What the contenders on FastAPI take, answer and send to their workers: the fields and rules of ingest_api."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import HTTPException
from pydantic import BaseModel, Field

UNKNOWN_PRODUCT = HTTPException(422, "there is no such product")


class NewOrder(BaseModel):
    product_id: Annotated[UUID, Field(alias="productId")]
    quantity: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]

    def priced(self, unit_price: Decimal | None) -> "Order":
        """The order, made now. Raises HTTPException (422) if there is no price."""
        if unit_price is None:
            raise UNKNOWN_PRODUCT
        return Order(
            id=uuid4(),
            product_id=self.product_id,
            quantity=self.quantity,
            unit_price=unit_price,
            total_price=unit_price * self.quantity,
            created_at=datetime.now(UTC),
        )


class Order(BaseModel):
    id: UUID
    product_id: UUID
    quantity: int
    unit_price: Decimal
    total_price: Decimal
    created_at: datetime
    status: Literal["PENDING", "PROCESSED"] = "PENDING"

    def row(self) -> tuple[Any, ...]:
        """The parameters of STORE_AND_DECIDE."""
        return self.id, self.product_id, self.quantity, self.unit_price, self.total_price, self.created_at
