"""An order on the wire: one JSON object, encoded once at acceptance, carried unchanged to the database.

The bytes that answer the client are the bytes in the message, plus members at the end that only workers need. A message
body is a JSON array of such objects, so batches are made, merged and split by joining bytes:

    encode_order → join_bodies([b"[…]", b"[…]"]) → decode_body

An order is an Order, of one product, or a Basket, of lines. Most messages hold Orders alone, so a body is first
decoded as a list of them, and element by element only if that fails.

msgspec does this work rather than orjson, because it decodes straight into typed structs (0.9 µs an order, measured)
and keeps a price's decimal digits exact in both directions. orjson writes the logs, where nothing is typed.
"""

from collections.abc import Iterable, Sequence
from decimal import DecimalException
from typing import ClassVar, TypeAlias

import msgspec

from pipeline.contract.canonical_ids import are_canonical
from pipeline.contract.columns import Column
from pipeline.contract.fields import Metadata, Moment, OrderId, ProductId, Reference, TotalPrice, UnitPrice

SCHEMAS = (1, 2)
"""The versions of the message body that we read. A reader parks what it does not know; it never guesses.

    1    orders of the members that every release knows
    2    the same, and at least one order has a reference, metadata or lines. A reader of version 1 would drop them
"""
SCHEMA = 1
"""What a message says if it needs no later version."""
_SCHEMA_OF_DETAILS = 2

MIN_LINES, MAX_LINES = 1, 50
"""Of a basket. One of a single line is still a Basket, because its client sent lines and is answered with lines."""


class _Details(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What an order may have, however many lines it has. Encoded behind the members of the subclass."""

    reference: Reference | None = None
    metadata: Metadata | None = None
    """None if there are no pairs."""
    traceparent: str | None = None
    """W3C Trace Context of the order's request, if it had one."""
    request_hash: str | None = None
    """Hex digest of the request of an order with an Idempotency-Key."""
    client: str | None = None
    """The owner of the API key that sent the order, which decides who may read it; None while the service is open."""


class Order(_Details, frozen=True, gc=False, omit_defaults=True):
    """An accepted order of one line. Field order is what clients see.

    Ids are canonical UUID text, not `uuid.UUID`: the path from socket to COPY never needs the object, and
    building one costs more than the whole encode.
    """

    id: OrderId
    product_id: ProductId
    quantity: int
    unit_price: UnitPrice
    total_price: TotalPrice
    created_at: Moment
    """When the order was accepted: the `orders.accepted_at` column. UTC."""
    status: str | None = None
    """Always `PENDING` in the answer to the client; readers of messages ignore it."""
    lines: None = None
    """Never there, so a Basket is no Order by mistake, whatever other members it has."""

    # As the row of its only line.
    line: ClassVar[int] = 0
    line_count: ClassVar[None] = None


class OrderLine(msgspec.Struct, frozen=True, gc=False):
    """One line of a basket."""

    line: int
    """Its place in the basket, from 0."""
    product_id: ProductId
    quantity: int
    unit_price: UnitPrice
    total_price: TotalPrice


class Basket(_Details, frozen=True, gc=False, omit_defaults=True):
    """An accepted order of lines, each of another product: all are delivered, or none."""

    id: OrderId
    lines: tuple[OrderLine, ...]
    """In the order of their numbers."""
    total_price: TotalPrice
    """The sum of the lines'."""
    created_at: Moment
    status: str | None = None


AnyOrder: TypeAlias = Order | Basket
AnyLine: TypeAlias = Order | OrderLine
"""An Order is its own line."""

ANSWERED = (
    Column("id", "uuid"),
    Column("product_id", "uuid"),
    Column("quantity", "integer"),
    Column("unit_price", "numeric"),
    Column("total_price", "numeric"),
    Column("accepted_at", "timestamptz", stores="created_at"),
    Column("reference", "text"),
    Column("metadata", "json"),
)
"""The columns of `orders` that a client sees in its order."""
INTERNAL = (
    Column("request_hash", "bytea"),
    Column("client", "text"),
)
"""The columns of `orders` that only our processes read."""
COLUMNS = (*ANSWERED, *INTERNAL)
"""The columns of an order of one line: every member of Order but `status` and `traceparent`. PostgreSQL itself sets
`persisted_at`. COPY and each SELECT of a whole order derive from this.
"""
OF_BASKET = (Column("line", "smallint"), Column("line_count", "smallint", optional=True))
"""The columns that only the rows of a basket need. By default, a row is the only line of its order."""


class InvalidOrder(ValueError):
    """Bytes that are not an order, or not a body of orders. The text says where and why."""


class _Identified(msgspec.Struct):
    id: str


class _Owned(msgspec.Struct):
    client: str


class _Anything(msgspec.Struct):
    """Any JSON object: its members are skipped."""


class _Kind(msgspec.Struct):
    lines: list[_Anything] | None = None


# The longest name of a client (pipeline/contract/api_keys.py). An index holds it, and PostgreSQL refuses a value too
# long for an index with an error that blames no row.
_MAX_CLIENT = 64

_encoder = msgspec.json.Encoder(decimal_format="number")
_body_decoder = msgspec.json.Decoder(list[Order])
_raw_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_order_decoder = msgspec.json.Decoder(Order)
_basket_decoder = msgspec.json.Decoder(Basket)
_kinds_decoder = msgspec.json.Decoder(list[_Kind])
_id_decoder = msgspec.json.Decoder(_Identified)
_owner_decoder = msgspec.json.Decoder(_Owned)

# UnicodeDecodeError: msgspec raises no DecodeError for text that is not UTF-8.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def schema_of(order: AnyOrder) -> int:
    """The version that a message with this order says, at least."""
    is_plain = order.reference is None and order.metadata is None and isinstance(order, Order)
    return SCHEMA if is_plain else _SCHEMA_OF_DETAILS


def schema_of_all(orders: Iterable[AnyOrder]) -> int:
    """The version that a message with these orders says."""
    return max(map(schema_of, orders), default=SCHEMA)


def latest_schema(said: Sequence[object]) -> int:
    """The version of a message that is made of others. `said`: the versions of those, which we read."""
    return max((it for it in SCHEMAS if it in said), default=SCHEMA)


def lines_of(order: AnyOrder) -> Sequence[AnyLine]:
    """The lines in the order of their numbers."""
    return (order,) if isinstance(order, Order) else order.lines


def ordered(order: AnyOrder) -> tuple[tuple[str, int], ...]:
    """What is ordered, product and quantity of each line. Two orders under one id are the same if they agree in it."""
    return tuple((line.product_id, line.quantity) for line in lines_of(order))


def encode_order(order: AnyOrder) -> bytes:
    """One order as JSON: the answer to the client and its place in a message. Raises nothing."""
    return _encoder.encode(order)


def with_context(encoded: bytes, traceparent: str | None, request_hash: str | None, client: str) -> bytes:
    """An encoded order as a message holds it: the client's bytes, then the members that only the workers need.

    No value may hold a character that JSON escapes. `client`: "" for an order without an owner.
    """
    if traceparent is None and request_hash is None and not client:
        return encoded
    trace = f',"traceparent":"{traceparent}"' if traceparent else ""
    request = f',"request_hash":"{request_hash}"' if request_hash else ""
    owner = f',"client":"{client}"' if client else ""
    return encoded[:-1] + f"{trace}{request}{owner}}}".encode()


def join_orders(encoded: Iterable[bytes]) -> bytes:
    """A message body from encoded orders."""
    return b"[" + b",".join(encoded) + b"]"


def join_bodies(bodies: list[bytes]) -> bytes:
    """One message body from several well-formed, non-empty ones, without decoding any."""
    return bodies[0] if len(bodies) == 1 else join_orders(body.strip()[1:-1] for body in bodies)


def decode_body(body: bytes) -> Sequence[AnyOrder]:
    """All the orders of one message. Raises InvalidOrder if any of them, or the array itself, is malformed."""
    try:
        orders: Sequence[Order] = _body_decoder.decode(body)
    except _MALFORMED:
        return _decode_each(body)  # with baskets, or malformed
    _check(orders, orders)
    return orders


def split_body(body: bytes) -> list[bytes]:
    """The elements of a body as bytes, undecoded. Raises InvalidOrder if it is not a JSON array."""
    try:
        return [bytes(raw) for raw in _raw_decoder.decode(body)]
    except _MALFORMED as error:
        raise InvalidOrder(str(error)) from error


def decode_order(encoded: bytes) -> AnyOrder:
    """One order. Raises InvalidOrder."""
    orders = _decode_each(b"[" + encoded + b"]")
    if len(orders) != 1:
        raise InvalidOrder(f"{len(orders)} orders instead of one")
    return orders[0]


def id_in(encoded: bytes) -> str | None:
    """The id in JSON that may not be an order; None if it has no canonical one."""
    try:
        order_id = _id_decoder.decode(encoded).id
    except _MALFORMED:
        return None
    return order_id if are_canonical([order_id]) else None


def client_in(body: bytes, order_id: str) -> str | None:
    """The owner of an order in the body of its dead letter, which may hold no order; None if it names none."""
    try:
        elements = split_body(body)
        owners = [_owner_decoder.decode(element) for element in elements if id_in(element) == order_id]
    except (InvalidOrder, *_MALFORMED):
        return None
    return owners[0].client or None if len(owners) == 1 else None


def _decode_each(body: bytes) -> list[AnyOrder]:
    """The orders of a body that may hold baskets.

    An order of one line takes 3 µs, not 1.6 as in a body without baskets, and a basket of three lines 9 µs (measured).
    """
    try:
        kinds, elements = _kinds_decoder.decode(body), _raw_decoder.decode(body)
        orders: list[AnyOrder] = [
            (_order_decoder if kind.lines is None else _basket_decoder).decode(element)
            for kind, element in zip(kinds, elements, strict=True)
        ]
    except _MALFORMED as error:
        raise InvalidOrder(str(error)) from error
    for order in orders:
        if isinstance(order, Basket):
            _check_basket(order)
    _check(orders, [line for order in orders for line in lines_of(order)])
    return orders


def _check(orders: Sequence[AnyOrder], lines: Sequence[AnyLine]) -> None:
    """Raise InvalidOrder for values that decode but are no orders. All at once: 0.2 µs an order, measured.

    `lines`: of all the orders.
    """
    if not are_canonical([*[order.id for order in orders], *[line.product_id for line in lines]]):
        raise InvalidOrder("an id is not a UUID in its canonical form")
    # A NaN is no JSON number: encoded again, it would make the whole message unreadable.
    if not all(line.unit_price.is_finite() and line.total_price.is_finite() for line in lines):
        raise InvalidOrder("a price is not finite")
    # Without a time zone, a time is ambiguous, and Python refuses to compare it with others.
    if not all(order.created_at.tzinfo for order in orders):
        raise InvalidOrder("created_at has no time zone")
    if any(order.client is not None and len(order.client) > _MAX_CLIENT for order in orders):
        raise InvalidOrder(f"client is longer than {_MAX_CLIENT} characters")


def _check_basket(basket: Basket) -> None:
    """Raise InvalidOrder for what no row of `orders` shows, because it is about several."""
    lines = basket.lines
    if not MIN_LINES <= len(lines) <= MAX_LINES:
        raise InvalidOrder(f"{len(lines)} lines: a basket has {MIN_LINES} to {MAX_LINES}")
    if [line.line for line in lines] != list(range(len(lines))):
        raise InvalidOrder("the lines are not numbered 0, 1, and so on")
    if len({line.product_id for line in lines}) < len(lines):
        raise InvalidOrder("two lines are of the same product")
    if not _adds_up(basket):
        raise InvalidOrder("total_price is not the sum of the lines'")


def _adds_up(basket: Basket) -> bool:
    try:
        return sum(line.total_price for line in basket.lines) == basket.total_price
    except DecimalException:  # of a NaN, or of a number too large to add
        return False
