"""What clients send, and what is allowed in it. Pure: bodies in, values or a Problem out.

Unknown fields are ignored: clients of the service that this one replaces send more than it needs.
"""

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from web import problems
from web.body import decode_json

# numeric(12, 2)
MAX_PRICE = Decimal("9999999999.99")
_CENT = Decimal("0.01")
# A JSON number that every client reads exactly (RFC 8259 section 6: up to 2^53), and far from where a bigint ends.
MAX_QTY = 10**15
MAX_RESTOCK = 1_000_000_000
MAX_NAME_CHARACTERS = 200

# A plain decimal. `Decimal` itself reads more: spaces, underscores, digits of other scripts.
_DECIMAL = re.compile(rb'-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|"-?[0-9]+(?:\.[0-9]+)?"')

Price = msgspec.Raw
"""As a JSON number, read exactly; for clients whose numbers are floats also as a string, digits and a point."""
Qty = Annotated[int, Meta(ge=0, le=MAX_QTY)]


class ProductValues(NamedTuple):
    """What a client can set of a product, checked."""

    name: str
    price: Decimal
    qty: int


Edit = Callable[[ProductValues], ProductValues]
"""What becomes of a product's values. Raises Problem if that is not allowed."""


class ProductRequest(msgspec.Struct):
    """POST and PUT: a whole product."""

    name: str
    price: Price
    qty: Qty


class PatchRequest(msgspec.Struct):
    """PATCH: a JSON merge patch (RFC 7396). There is nothing to remove from a product, so null is not allowed."""

    name: str | UnsetType = UNSET
    price: Price | UnsetType = UNSET
    qty: Qty | UnsetType = UNSET


class RestockRequest(msgspec.Struct):
    quantity: Annotated[int, Meta(ge=1, le=MAX_RESTOCK)]


_product_decoder = msgspec.json.Decoder(ProductRequest)
_patch_decoder = msgspec.json.Decoder(PatchRequest)
_restock_decoder = msgspec.json.Decoder(RestockRequest)


def decode_product(body: bytes) -> ProductValues:
    """Raises Problem (400, 422)."""
    request = decode_json(_product_decoder, body)
    return ProductValues(_name(request.name), _price(request.price), request.qty)


def decode_patch(body: bytes) -> Edit:
    """Raises Problem (400, 422)."""
    patch = decode_json(_patch_decoder, body)
    name = UNSET if patch.name is UNSET else _name(patch.name)
    price = UNSET if patch.price is UNSET else _price(patch.price)
    return lambda old: ProductValues(
        old.name if name is UNSET else name,
        old.price if price is UNSET else price,
        old.qty if patch.qty is UNSET else patch.qty,
    )


def decode_restock(body: bytes) -> Edit:
    """Raises Problem (400, 422); the edit does too, if there would be more than MAX_QTY."""
    quantity = decode_json(_restock_decoder, body).quantity

    def restock(values: ProductValues) -> ProductValues:
        if values.qty + quantity > MAX_QTY:
            detail = f"There are {values.qty} already; with {quantity} more there would be more than {MAX_QTY}."
            raise problems.invalid("/quantity", detail)
        return values._replace(qty=values.qty + quantity)

    return restock


def _name(text: str) -> str:
    name = text.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise problems.invalid("/name", f"name must have 1 to {MAX_NAME_CHARACTERS} characters besides outer spaces.")
    # Controls break logs and terminals, and PostgreSQL has no NUL in text; a lone surrogate has no UTF-8.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise problems.invalid("/name", "name must not have control characters.")
    return name


def _price(raw: msgspec.Raw) -> Decimal:
    price = _decimal(bytes(raw))
    if not 0 <= price <= MAX_PRICE:
        raise problems.invalid("/price", f"price must be from 0 to {MAX_PRICE}.")
    # By value: 1.500 is the number 1.5, however it is written. Kept in cents, because PostgreSQL has its limits for
    # what is written, zeros included.
    cents = price.quantize(_CENT)
    if price != cents:
        raise problems.invalid("/price", "price must have at most 2 decimal places.")
    return cents


def _decimal(raw: bytes) -> Decimal:
    if not _DECIMAL.fullmatch(raw):
        raise problems.invalid("/price", 'price must be a number, like 19.99, or its digits as a string, like "19.99".')
    try:
        return Decimal(raw.strip(b'"').decode())
    except InvalidOperation:  # an exponent that is no number of this world
        raise problems.invalid("/price", f"price must be from 0 to {MAX_PRICE}.") from None
