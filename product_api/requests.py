"""Decodes and checks what clients send. Pure: bodies in, values or a Problem out."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from web.problems import problems
from web.requests.json_body import JsonBody, Rule
from web.requests.readable_text import breaks_text, has_visible

# numeric(12, 2)
MAX_PRICE = Decimal("9999999999.99")
_CENT = Decimal("0.01")
# A JSON number that every client reads exactly (RFC 8259 section 6: up to 2^53), and far below the end of a bigint.
MAX_QTY = 10**15
MAX_RESTOCK = 1_000_000_000
MAX_NAME_CHARACTERS = 200

# A plain decimal. `Decimal` itself accepts more: spaces, underscores, digits of other scripts.
_DECIMAL = re.compile(rb'-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|"-?[0-9]+(?:\.[0-9]+)?"')

# The rules of web/requests/readable_text.py that a schema can express: no controls, line separators, overrides and
# noncharacters.
_SPOILING = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202d\u202e\ufdd0-\ufdef\ufffe\uffff"
_INNER, _EDGE = f"[^{_SPOILING}]", rf"[^\s{_SPOILING}]"

# extra_json_schema: for the documents alone; the functions below check what it says.
Name = Annotated[
    str,
    Meta(
        description=(
            f"1 to {MAX_NAME_CHARACTERS} characters besides outer spaces, which are taken off. At least one can be"
            " seen. No controls, line breaks, noncharacters or overrides of the direction; a direction that begins in"
            " a name ends in it."
        ),
        examples=["Laptop Demo"],
        # No maxLength: it would count the outer spaces.
        extra_json_schema={"pattern": rf"^\s*{_EDGE}({_INNER}{{0,{MAX_NAME_CHARACTERS - 2}}}{_EDGE})?\s*$"},
    ),
]
Price = Annotated[
    msgspec.Raw,
    Meta(
        description="At most two decimal places, read exactly. For clients whose numbers are floats also as a string.",
        examples=[1500, "19.99"],
        extra_json_schema={
            "oneOf": [
                # No multipleOf: for validators that count in binary, 19.99 is not a multiple of 0.01.
                {"type": "number", "minimum": 0, "maximum": float(MAX_PRICE)},
                {"type": "string", "pattern": r"^[0-9]{1,10}(\.[0-9]{1,2})?$"},
            ]
        },
    ),
]
"""As a JSON number, or as a string of digits and a point."""
Qty = Annotated[int, Meta(ge=0, le=MAX_QTY, description="Units in stock.", examples=[50])]


class ProductValues(NamedTuple):
    """The values of a product that a client can set, checked."""

    name: str
    price: Decimal
    qty: int


Edit = Callable[[ProductValues], ProductValues]
"""Makes a product's new values from its old ones. Raises Problem if they are not allowed."""


class ProductRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A whole product."""

    name: Name
    price: Price
    qty: Qty


class PatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON merge patch (RFC 7396): what is left out stays. There is nothing to remove, so null is not allowed."""

    name: Name | UnsetType = UNSET
    price: Price | UnsetType = UNSET
    qty: Qty | UnsetType = UNSET


class RestockRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Units that arrived."""

    quantity: Annotated[int, Meta(ge=1, le=MAX_RESTOCK, description="How many to add.", examples=[25])]


class Patch(NamedTuple):
    edit: Edit
    sets_qty: bool


def decode_product(body: bytes) -> ProductValues:
    """Decode a whole product. Raises Problem (400, 422)."""
    request = _product.decode(body)
    try:
        return ProductValues(_name(request.name), _price(request.price), request.qty)
    except ValueError:
        raise _product.refusal(body) from None


def decode_patch(body: bytes) -> Patch:
    """Decode a JSON merge patch. Raises Problem (400, 422)."""
    patch = _patch.decode(body)
    try:
        name = UNSET if patch.name is UNSET else _name(patch.name)
        price = UNSET if patch.price is UNSET else _price(patch.price)
    except ValueError:
        raise _patch.refusal(body) from None

    def edit(old: ProductValues) -> ProductValues:
        return ProductValues(
            old.name if name is UNSET else name,
            old.price if price is UNSET else price,
            old.qty if patch.qty is UNSET else patch.qty,
        )

    return Patch(edit, sets_qty=patch.qty is not UNSET)


def decode_restock(body: bytes) -> Edit:
    """Decode a restock. Raises Problem (400, 422); the edit does too, if there would be more than MAX_QTY."""
    quantity = _restock.decode(body).quantity

    def restock(values: ProductValues) -> ProductValues:
        if values.qty + quantity > MAX_QTY:
            detail = f"There are {values.qty} already; with {quantity} more there would be more than {MAX_QTY}."
            raise problems.invalid("/quantity", detail)
        return values._replace(qty=values.qty + quantity)

    return restock


def restocked_in(body: bytes) -> int:
    """The units in a body that `decode_restock` accepts."""
    return _restock.decode(body).quantity


def _name(text: str) -> str:
    """The name without outer spaces. Raises ValueError."""
    name = text.strip()
    if len(name) > MAX_NAME_CHARACTERS or not has_visible(name) or breaks_text(name):
        raise ValueError
    return name


def _price(raw: msgspec.Raw) -> Decimal:
    """The price with two decimals. Raises ValueError."""
    text = bytes(raw)
    if not _DECIMAL.fullmatch(text):
        raise ValueError
    try:
        price = Decimal(text.strip(b'"').decode())
    except InvalidOperation:  # an exponent beyond what Decimal can hold
        raise ValueError from None
    # Compared by value: 1.500 is the number 1.5, however it is written. Kept with two decimals, because PostgreSQL
    # limits the digits that are written, zeros included.
    if not 0 <= price <= MAX_PRICE or price != (cents := price.quantize(_CENT)):
        raise ValueError
    return cents


_NAME_RULE = Rule(
    f"a string of 1 to {MAX_NAME_CHARACTERS} characters besides outer spaces, of which one at least can be seen,"
    " without controls, line breaks, noncharacters and overrides of the direction",
    _name,
)
_PRICE_RULE = Rule(
    f"a number from 0 to {MAX_PRICE} with at most 2 decimal places, or its digits as a string, like 19.99", _price
)

_product = JsonBody(ProductRequest, name=_NAME_RULE, price=_PRICE_RULE)
_patch = JsonBody(PatchRequest, name=_NAME_RULE, price=_PRICE_RULE)
_restock = JsonBody(RestockRequest)
