"""Turns a client's request into an order: decodes, checks and prices it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta

from database.sessions import StoreUnavailable
from ingest_api.prices.catalogue import Catalogue, Product
from pipeline.contract.fields import EXAMPLE_PRODUCT, ProductId
from pipeline.contract.orders import Order
from pipeline.process.shares import Busy
from web.problems import problems
from web.requests.ids import canonical_id
from web.requests.json_body import JsonBody, Rule

MAX_QUANTITY = 1_000_000

Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY, description="Units.", examples=[2])]


class OrderRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What a client sends."""

    product_id: ProductId
    quantity: Quantity


def decode_request(body: bytes) -> OrderRequest:
    """The request, its quantity in bounds, its product id not yet checked. Raises Problem (400, 422)."""
    return _body.decode(body)


def canonical_product_id(text: str) -> str:
    """The id in lower case. Raises Problem (422) if it is not a UUID in its usual form."""
    if (product_id := canonical_id(text)) is None:
        raise problems.invalid("/productId", f"productId must be {_PRODUCT_ID}.")
    return product_id


def _check_product_id(text: str) -> None:
    if canonical_id(text) is None:
        raise ValueError


_PRODUCT_ID = f"a UUID, like {EXAMPLE_PRODUCT}"
# A product id is checked only if the catalogue does not know it: what the catalogue finds is valid.
_body = JsonBody(OrderRequest, product_id=Rule(_PRODUCT_ID, _check_product_id))


def check_sellable(product_id: str, product: Product) -> Decimal:
    """The product's price. Raises Problem: 422 if it does not exist, 409 if it is known to be sold out."""
    if product.price is None:
        raise problems.unknown_product(product_id)
    if product.sold_out:
        raise problems.out_of_stock(product_id)
    return product.price


def to_order(order_id: str, request: OrderRequest, product_id: str, unit_price: Decimal, now: datetime) -> Order:
    """The order that a request becomes, accepted at `now`. `product_id`: the request's, canonical."""
    return Order(
        id=order_id,
        product_id=product_id,
        quantity=request.quantity,
        unit_price=unit_price,
        total_price=unit_price * request.quantity,
        status="PENDING",
        created_at=now,
    )


# ── I/O below


async def price(catalogue: Catalogue, order_id: str, request: OrderRequest, client: str) -> Order:
    """The order that `request` becomes, if its product can be sold. Raises Problem (409, 422, 503)."""
    product_id = request.product_id
    product = catalogue.get(product_id)
    if product is None:
        product_id = canonical_product_id(product_id)
        try:
            product = await catalogue.find(product_id, client)
        except StoreUnavailable as error:
            raise problems.store_unavailable(str(error)) from None
        except Busy:
            raise problems.overloaded() from None
    unit_price = check_sellable(product_id, product)
    return to_order(order_id, request, product_id, unit_price, datetime.now(UTC))
