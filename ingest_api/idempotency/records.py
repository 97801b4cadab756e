"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): the pure part.

What makes two requests the same, and what is remembered of an order. ingest_api.idempotency.keyed says how P5 is kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from hashlib import blake2b
from uuid import UUID

import msgspec

from ingest_api.requests import AnyRequest, BasketRequest, OrderRequest, RequestDetails, to_any_order
from pipeline.contract.orders import AnyOrder, Order, lines_of
from web.problems import problems
from web.problems.kinds import KINDS
from web.problems.problems import Problem

FINGERPRINT_BYTES = 16
_ID, _STATE, _MADE, _HEAD = 32, 33, 62, 75
_STATES = (b"f", b"u", b"?", b"!", b"d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# Why a product may be refused, by the problem's name: a replay refuses it in the same words.
_REFUSALS: dict[str, Callable[[str], Problem]] = {
    "unknown-product": problems.unknown_product,
    "out-of-stock": problems.out_of_stock,
    "store-unavailable": lambda _: problems.store_unavailable(),
}
# The same of a basket, given the products of the lines that are to blame.
_REFUSALS_OF_LINES: dict[str, Callable[[dict[int, str]], Problem]] = {
    "unknown-product": problems.unknown_lines,
    "out-of-stock": problems.sold_out_lines,
    "store-unavailable": lambda _: problems.store_unavailable(),
}

Request = AnyRequest | Problem
"""One element of a request: the order that it asks for, its product ids canonical; or the problem with it."""

_encode = msgspec.json.Encoder(order="deterministic").encode
_decoder = msgspec.json.Decoder(tuple[int, list[str], list[int]])


class KeyConflict(Enum):
    """Why a keyed request may not go on."""

    IN_FLIGHT = "in_flight"
    REUSED = "reused"
    """The key came with another order."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's hold on its key. `remember` or `give_up` must settle it."""

    name: str
    """The key's name in Redis."""
    order_id: str
    """The order's id, in a bulk request the first order's; 32 hex digits. It derives from what is ordered, so it
    also tells one order from another.
    """
    owner: str
    priced: str
    """What is published, see `pack`."""
    in_doubt: bool = False
    """An earlier request priced the order and may have published it: it is published again at that price."""
    is_sure: bool = True
    """If in doubt: no other price can have been published."""
    client: str = ""
    made: str = ""
    """If in doubt: when the first request claimed it, 13 digits, ms, by Redis's clock."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The first request was answered."""

    order_id: str
    priced: str
    made: str = field(default="", compare=False)
    """As in `Claim`."""


def fingerprint_of(ordered: AnyRequest | AnyOrder) -> bytes:
    """Identifies a request under its key: a hash of what it orders, not of how it is written.

    An optional member that is left out is not hashed, so a release that adds one finds the keys of the one before. The
    order of the pairs of metadata is not hashed either: to a client that keeps them in a set, it means nothing.
    A product alone and a basket of this one line differ, because their answers do. `ordered`: the request, its product
    ids canonical, or the order that it became.
    """
    more = {name: value for name in RequestDetails.__struct_fields__ if (value := getattr(ordered, name)) is not None}
    if isinstance(ordered, (OrderRequest, Order)):
        text = f"{ordered.product_id} {ordered.quantity}".encode()
    else:
        text = _encode([(line.product_id, line.quantity) for line in ordered.lines])
    return blake2b(text + _encode(more) if more else text, digest_size=FINGERPRINT_BYTES).digest()


def name_of(namespace: str, client: str, key: str, *, is_bulk: bool = False) -> str:
    """The name of a client's key in Redis, of one length whatever clients send. A client's name has no colon."""
    digest = blake2b(f"{'bulk' if is_bulk else 'one'}:{client}:{key}".encode(), digest_size=16).hexdigest()
    return f"{namespace}claim:{digest}"


def judge(held: bytes, claim: Claim, ids: Sequence[str]) -> Claim | KeyConflict | Replay | bytes:
    """How a request begins that laid `claim` to a key where `held` stood.

    Returns `held` as it is if its order is not in `ids`, or if it is not a claim.
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
    return KeyConflict.IN_FLIGHT


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


def pack(status: int, results: Iterable[AnyOrder | Problem]) -> str:
    """Packs what is remembered of a request: each order's price and time, or the name of the problem.

    It is small because it is kept for a day; the rest follows from the request and its key. One order takes 36 bytes.
    A thousand take 2 kB with one price, 31 kB with a thousand prices; their answer takes 229 kB. All lines that a bulk
    request may have take 51 kB.
    """
    table: dict[str, int] = {}
    places = [table.setdefault(_noted(it), len(table)) for it in results]
    return msgspec.json.encode((status, list(table), places)).decode()


def unpack(packed: str, order_ids: Sequence[str], requests: Sequence[Request]) -> tuple[int, list[AnyOrder | Problem]]:
    """The status and what became of each request.

    Raises ValueError if `packed` cannot be read, or was packed for another number of requests. Also if it holds an
    order where this release refuses the request, and so does not know what was ordered.
    """
    try:
        status, table, places = _decoder.decode(packed)
        noted = [table[place] for place in places]
    except (msgspec.DecodeError, IndexError) as error:
        raise ValueError("not packed by us") from error
    return status, [_result(*it) for it in zip(noted, order_ids, requests, strict=True)]


def _refusal(noted: str, request: AnyRequest) -> Problem:
    """The refusal again, even if this release would accept the request. Raises ValueError for what nobody noted."""
    name, *lines = noted.split("/")
    if isinstance(request, OrderRequest) and name in _REFUSALS:
        return _REFUSALS[name](request.product_id)
    if isinstance(request, BasketRequest) and name in _REFUSALS_OF_LINES:
        try:
            return _REFUSALS_OF_LINES[name]({int(it): request.lines[int(it)].product_id for it in lines})
        except IndexError as error:  # of another basket, or of no line
            raise ValueError(f"not the lines of this basket: {noted!r}") from error
    if (kind := KINDS.get(name)) is None:
        raise ValueError(f"no problem: {name!r}")
    return Problem(kind, "The first request with this Idempotency-Key was refused so. Use a new key to order it now.")


def _noted(result: AnyOrder | Problem) -> str:
    if isinstance(result, Problem):
        return "/".join([result.name, *_lines_to_blame(result)])
    prices = " ".join([str(line.unit_price) for line in lines_of(result)])
    return f"{(result.created_at - _EPOCH) // _MICROSECOND} {prices}"


def _lines_to_blame(problem: Problem) -> list[str]:
    """The numbers of the lines that a refusal of a basket names."""
    pointers = [error.pointer.split("/") for error in problem.errors if error.pointer is not None]
    return [it[2] for it in pointers if it[1:2] == ["lines"] and problem.name in _REFUSALS_OF_LINES]


def _result(noted: str, order_id: str, request: Request) -> AnyOrder | Problem:
    microseconds, *prices = noted.split(" ")
    if not prices:
        return request if isinstance(request, Problem) else _refusal(noted, request)
    if isinstance(request, Problem):
        raise ValueError("an order, of a request that is refused now")
    try:
        unit_prices, accepted_at = [Decimal(it) for it in prices], _EPOCH + int(microseconds) * _MICROSECOND
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f"no price or no time: {noted!r}") from error
    return to_any_order(order_id, request, unit_prices, accepted_at)
