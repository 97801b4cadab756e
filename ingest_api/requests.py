"""Turns a client's request into an order: decodes, checks and prices it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta

from database.sessions import StoreUnavailable
from ingest_api.prices.catalogue import Catalogue, Product
from pipeline.contract.fields import (
    EXAMPLE_PRODUCT,
    MAX_METADATA_BYTES,
    MAX_METADATA_KEY_CHARACTERS,
    MAX_METADATA_PAIRS,
    MAX_REFERENCE_CHARACTERS,
    METADATA_META,
    MetadataKey,
    MetadataValue,
    ProductId,
    Reference,
)
from pipeline.contract.orders import Order
from pipeline.process.shares import Busy
from web.problems import problems
from web.requests.ids import canonical_id
from web.requests.json_body import JsonBody, Rule

MAX_QUANTITY = 1_000_000

Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY, description="Units.", examples=[2])]
OrderReference = Annotated[Reference, Meta(min_length=1, max_length=MAX_REFERENCE_CHARACTERS)]
OrderMetadata = Annotated[
    dict[Annotated[MetadataKey, Meta(min_length=1, max_length=MAX_METADATA_KEY_CHARACTERS)], MetadataValue],
    METADATA_META,
    Meta(max_length=MAX_METADATA_PAIRS),
]


class OrderRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What a client sends."""

    product_id: ProductId
    quantity: Quantity
    reference: OrderReference | None = None
    metadata: OrderMetadata | None = None


def decode_request(body: bytes) -> OrderRequest:
    """The request, its quantity in bounds, its product id not yet checked. Raises Problem (400, 422)."""
    request = _body.decode(body)
    if request.reference is not None or request.metadata is not None:
        _check_details(request, body)
    return request


def canonical_product_id(text: str) -> str:
    """The id in lower case. Raises Problem (422) if it is not a UUID in its usual form."""
    if (product_id := canonical_id(text)) is None:
        raise problems.invalid("/productId", f"productId must be {_PRODUCT_ID}.")
    return product_id


def _check_product_id(text: str) -> None:
    if canonical_id(text) is None:
        raise ValueError


def _check_details(request: OrderRequest, body: bytes) -> None:
    """Checks of the texts what their types cannot say. Raises Problem (422). No pairs are the same as no metadata."""
    try:
        _check_reference(request.reference)
        _check_metadata(request.metadata)
    except ValueError:
        raise _body.refusal(body) from None
    request.metadata = request.metadata or None


def _check_reference(text: str | None) -> None:
    """Raises ValueError for a text that PostgreSQL cannot store."""
    if text is not None and "\0" in text:
        raise ValueError


def _check_metadata(pairs: dict[str, str] | None) -> None:
    """Raises ValueError for texts that PostgreSQL cannot store, or that are too long together."""
    if pairs:
        texts = "".join([*pairs, *pairs.values()])
        if "\0" in texts or len(texts.encode()) > MAX_METADATA_BYTES:
            raise ValueError


_PRODUCT_ID = f"a UUID, like {EXAMPLE_PRODUCT}"
# No problem repeats a client's own texts, because others keep problems in their logs.
_REFERENCE = Rule(
    f"a string of 1 to {MAX_REFERENCE_CHARACTERS} characters, none of them U+0000", _check_reference, is_private=True
)
_METADATA = Rule(
    f"an object of at most {MAX_METADATA_PAIRS} members, all strings, whose names have 1 to"
    f" {MAX_METADATA_KEY_CHARACTERS} characters; names and values together have at most {MAX_METADATA_BYTES} bytes in"
    " UTF-8, none of them U+0000",
    _check_metadata,
    is_private=True,
)
# A product id is checked only if the catalogue does not know it: what the catalogue finds is valid.
_body = JsonBody(
    OrderRequest,
    product_id=Rule(_PRODUCT_ID, _check_product_id),
    reference=_REFERENCE,
    metadata=_METADATA,
)


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
        reference=request.reference,
        metadata=request.metadata,
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
