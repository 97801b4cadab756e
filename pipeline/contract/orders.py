"""An order on the wire: one JSON object, encoded once at acceptance, carried unchanged to the database.

The bytes that answer the client are the bytes in the message, plus members at the end that only workers need. A message
body is a JSON array of such objects, so batches are made, merged and split by joining bytes:

    encode_order → join_bodies([b"[…]", b"[…]"]) → decode_body

msgspec does this work rather than orjson, because it decodes straight into typed structs (0.9 µs an order, measured)
and keeps a price's decimal digits exact in both directions. orjson writes the logs, where nothing is typed.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pipeline.contract.columns import Column
from pipeline.contract.fields import Metadata, Moment, OrderId, ProductId, Reference, TotalPrice, UnitPrice

SCHEMAS = (1, 2)
"""The versions of the message body that we read. A reader parks what it does not know; it never guesses.

    1    orders of the members that every release knows
    2    the same, and at least one order has a reference or metadata. A reader of version 1 would drop them silently
"""
SCHEMA = 1
"""What a message says if it needs no later version."""
_SCHEMA_OF_DETAILS = 2


class Order(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An accepted order. Field order is what clients see.

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
    reference: Reference | None = None
    metadata: Metadata | None = None
    """None if there are no pairs."""
    traceparent: str | None = None
    """W3C Trace Context of the order's request, if it had one."""
    request_hash: str | None = None
    """Hex digest of the request of an order with an Idempotency-Key."""
    client: str | None = None
    """The owner of the API key that sent the order, which decides who may read it; None while the service is open."""


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
"""The table `orders`, which stores every member of Order but `status` and `traceparent`. PostgreSQL itself sets
`persisted_at`, `line` and `line_count`. COPY and each SELECT of a whole order derive from this.
"""


class InvalidOrder(ValueError):
    """Bytes that are not an order, or not a body of orders. The text says where and why."""


class _Identified(msgspec.Struct):
    id: str


class _Owned(msgspec.Struct):
    client: str


# The longest name of a client (pipeline/contract/api_keys.py). An index holds it, and PostgreSQL refuses a value too
# long for an index with an error that blames no row.
_MAX_CLIENT = 64

# Maps hex digits to x, and x to a byte that no UUID has: a canonical UUID becomes _UUID_SHAPE.
_UUID_SHAPE = b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx\n"
_TO_SHAPE = bytes.maketrans(b"x0123456789abcdef", b"\0" + b"x" * 16)

_encoder = msgspec.json.Encoder(decimal_format="number")
_body_decoder = msgspec.json.Decoder(list[Order])
_raw_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_order_decoder = msgspec.json.Decoder(Order)
_id_decoder = msgspec.json.Decoder(_Identified)
_owner_decoder = msgspec.json.Decoder(_Owned)

# UnicodeDecodeError: msgspec raises no DecodeError for text that is not UTF-8.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def schema_of(order: Order) -> int:
    """The version that a message with this order says, at least."""
    return SCHEMA if order.reference is None and order.metadata is None else _SCHEMA_OF_DETAILS


def schema_of_all(orders: Iterable[Order]) -> int:
    """The version that a message with these orders says."""
    return max(map(schema_of, orders), default=SCHEMA)


def latest_schema(said: Sequence[object]) -> int:
    """The version of a message that is made of others. `said`: the versions of those, which we read."""
    return max((it for it in SCHEMAS if it in said), default=SCHEMA)


def order_from(row: Any, columns: Sequence[Column] = COLUMNS) -> Order:
    """The order as it was accepted, from a row that has each of `columns` by the name of its member."""
    return Order(**{it.member: it.value_of(row[it.member]) for it in columns}, status="PENDING")


def encode_order(order: Order) -> bytes:
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


def decode_body(body: bytes) -> list[Order]:
    """All the orders of one message. Raises InvalidOrder if any of them, or the array itself, is malformed."""
    try:
        orders = _body_decoder.decode(body)
    except _MALFORMED as error:
        raise InvalidOrder(str(error)) from error
    _check(orders)
    return orders


def split_body(body: bytes) -> list[bytes]:
    """The elements of a body as bytes, undecoded. Raises InvalidOrder if it is not a JSON array."""
    try:
        return [bytes(raw) for raw in _raw_decoder.decode(body)]
    except _MALFORMED as error:
        raise InvalidOrder(str(error)) from error


def decode_order(encoded: bytes) -> Order:
    """One order. Raises InvalidOrder."""
    try:
        order = _order_decoder.decode(encoded)
    except _MALFORMED as error:
        raise InvalidOrder(str(error)) from error
    _check([order])
    return order


def id_in(encoded: bytes) -> str | None:
    """The id in JSON that may not be an order; None if it has no canonical one."""
    try:
        order_id = _id_decoder.decode(encoded).id
    except _MALFORMED:
        return None
    return order_id if _are_canonical([order_id]) else None


def client_in(body: bytes, order_id: str) -> str | None:
    """The owner of an order in the body of its dead letter, which may hold no order; None if it names none."""
    try:
        elements = split_body(body)
        owners = [_owner_decoder.decode(element) for element in elements if id_in(element) == order_id]
    except (InvalidOrder, *_MALFORMED):
        return None
    return owners[0].client or None if len(owners) == 1 else None


def _check(orders: list[Order]) -> None:
    """Raise InvalidOrder for values that decode but are no orders. All at once: 0.2 µs an order, measured."""
    if not _are_canonical([text for order in orders for text in (order.id, order.product_id)]):
        raise InvalidOrder("an id is not a UUID in its canonical form")
    # A NaN is no JSON number: encoded again, it would make the whole message unreadable.
    if not all(order.unit_price.is_finite() and order.total_price.is_finite() for order in orders):
        raise InvalidOrder("a price is not finite")
    # Without a time zone, a time is ambiguous, and Python refuses to compare it with others.
    if not all(order.created_at.tzinfo for order in orders):
        raise InvalidOrder("created_at has no time zone")
    if any(order.client is not None and len(order.client) > _MAX_CLIENT for order in orders):
        raise InvalidOrder(f"client is longer than {_MAX_CLIENT} characters")


def _are_canonical(ids: list[str]) -> bool:
    """Whether all are UUIDs as PostgreSQL writes them. It reads other forms too, and finds them equal; we would not."""
    text = "".join([f"{it}\n" for it in ids]).encode()
    return text.translate(_TO_SHAPE) == _UUID_SHAPE * len(ids)
