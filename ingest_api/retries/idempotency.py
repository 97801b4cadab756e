"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07), as far as it is pure.

What makes two requests the same, and what is remembered of an order. ingest_api.retries.keyed says how P5 is kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from hashlib import blake2b
from uuid import UUID

import msgspec

from ingest_api.requests import OrderRequest
from pipeline.contract.orders import Order
from web.problems import problems
from web.problems.kinds import KINDS
from web.problems.problems import Problem

FINGERPRINT_BYTES = 16
_ID, _STATE, _MADE, _HEAD = 32, 33, 62, 75
_STATES = (b"f", b"u", b"?", b"!", b"d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# What a product may be refused for, by the problem's name: a replay refuses it in the same words.
_REFUSALS: dict[str, Callable[[str], Problem]] = {
    "unknown-product": problems.unknown_product,
    "out-of-stock": problems.out_of_stock,
    "store-unavailable": lambda _: problems.store_unavailable(),
}

Request = OrderRequest | Problem
"""One element of a request: what it asks for, its product id canonical, or what is wrong with it."""

_decoder = msgspec.json.Decoder(tuple[int, list[str], list[int]])


class Taken(Enum):
    """Why a keyed request may not go on."""

    IN_FLIGHT = "in_flight"
    REUSED = "reused"
    """The key came with another order."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Leave to go on, which must be settled: by `remember` or `give_up`."""

    name: str
    """What the key is called in Redis."""
    order_id: str
    """The order's id, of a bulk request its first one; 32 hex digits. It derives from what is ordered, so it
    also tells one order from another.
    """
    owner: str
    priced: str
    """What is published, see `pack`."""
    in_doubt: bool = False
    """A request before this one priced the order and may have left it behind: it is published as it was priced then."""
    is_sure: bool = True
    """Of one in doubt: no other price can have been published."""
    client: str = ""
    made: str = ""
    """Of one in doubt: when the first request claimed it, 13 digits, ms, by Redis's clock."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The first request was answered."""

    order_id: str
    priced: str
    made: str = field(default="", compare=False)
    """As a claim's."""


def fingerprint_of(product_id: str, quantity: int) -> bytes:
    """What makes two requests with one key the same request: what they order, not how they write it."""
    return blake2b(f"{product_id} {quantity}".encode(), digest_size=FINGERPRINT_BYTES).digest()


def name_of(namespace: str, client: str, key: str, *, is_bulk: bool = False) -> str:
    """What a client's key is called in Redis: of one length, whatever clients send. A client's name has no colon."""
    digest = blake2b(f"{'bulk' if is_bulk else 'one'}:{client}:{key}".encode(), digest_size=16).hexdigest()
    return f"{namespace}claim:{digest}"


def judge(held: bytes, claim: Claim, ids: Sequence[str]) -> Claim | Taken | Replay | bytes:
    """What stood at a key when `claim` was laid to it says how the request begins.

    Returned as it is if the order there is none of `ids`, or if it is no value of ours.
    """
    if not held:
        return claim
    text = held.decode("ascii", "replace")
    order_id, state, made, priced = text[:_ID], text[_ID:_STATE], text[_MADE:_HEAD], text[_HEAD:]
    if order_id not in ids:
        return held
    if state == "d":
        return Replay(order_id, priced, made)
    if state in ("?", "!"):
        return replace(claim, order_id=order_id, priced=priced, in_doubt=True, is_sure=state == "?", made=made)
    return Taken.IN_FLIGHT


def id_in(held: bytes) -> str:
    """The order id in a claim, as its canonical text; "" if the value is not a claim."""
    if len(held) < _HEAD or held[_ID:_STATE] not in _STATES:
        return ""
    try:
        return str(UUID(hex=held[:_ID].decode("ascii")))
    except ValueError:
        return ""


def may_be_accepted(error: BaseException) -> bool:
    """Whether a request that ended with `error` may have left an order behind."""
    return not isinstance(error, Problem) or error.name == "outcome-unknown"


def pack(status: int, results: Iterable[Order | Problem]) -> str:
    """What is remembered of a request: each order's price and time, or the name of the problem.

    Small, because it is kept for a day: the rest follows from the request and its key. One order takes 36 bytes; a
    thousand of one price 2 kB, of a thousand prices 31, where their answer takes 229.
    """
    table: dict[str, int] = {}
    places = [table.setdefault(_noted(it), len(table)) for it in results]
    return msgspec.json.encode((status, list(table), places)).decode()


def unpack(packed: str, order_ids: Sequence[str], requests: Sequence[Request]) -> tuple[int, list[Order | Problem]]:
    """The status and what became of each request.

    Raises ValueError if it cannot be read: it was not packed for this many, or has an order where this release refuses
    the request, and so does not know what was ordered.
    """
    try:
        status, table, places = _decoder.decode(packed)
        noted = [table[place] for place in places]
    except (msgspec.DecodeError, IndexError) as error:
        raise ValueError("not packed by us") from error
    return status, [_result(*it) for it in zip(noted, order_ids, requests, strict=True)]


def _refusal(name: str, request: OrderRequest) -> Problem:
    """What was refused stays refused, also if this release would accept it. Raises ValueError for no problem's name."""
    if (refusal := _REFUSALS.get(name)) is not None:
        return refusal(request.product_id)
    if (kind := KINDS.get(name)) is None:
        raise ValueError(f"no problem: {name!r}")
    return Problem(kind, "The first request with this Idempotency-Key was refused so. Use a new key to order it now.")


def _noted(result: Order | Problem) -> str:
    if isinstance(result, Problem):
        return result.name
    return f"{(result.created_at - _EPOCH) // _MICROSECOND} {result.unit_price}"


def _result(noted: str, order_id: str, request: Request) -> Order | Problem:
    microseconds, space, price = noted.partition(" ")
    if not space:
        return request if isinstance(request, Problem) else _refusal(noted, request)
    if isinstance(request, Problem):
        raise ValueError("an order, of a request that is refused now")
    try:
        unit_price, accepted_at = Decimal(price), _EPOCH + int(microseconds) * _MICROSECOND
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f"no price or no time: {noted!r}") from error
    return Order(
        id=order_id,
        product_id=request.product_id,
        quantity=request.quantity,
        unit_price=unit_price,
        total_price=unit_price * request.quantity,
        created_at=accepted_at,
        status="PENDING",
    )
