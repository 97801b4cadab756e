"""POST /api/v1/orders/bulk: up to 1,000 orders in one request, a JSON array or NDJSON, and one confirm for all of them.

Each order is judged by itself: the answer is an array with the order or the problem of each, in the order they came.
The good ones are published as one message, so they are accepted together or not at all. If not, the answer to the whole
request is a problem.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from ingest_api.idempotency.keyed import KeyedRequest
from ingest_api.idempotency.records import FINGERPRINT_BYTES, Request, fingerprint_of
from ingest_api.intake.accept import Intake, confirmed
from ingest_api.prices.catalogue import Product
from ingest_api.prices.pricing import prices_of
from ingest_api.requests import (
    AnyRequest,
    BasketRequest,
    LineRequest,
    OrderRequest,
    be_canonical,
    decode_request,
    requested_lines,
    to_any_order,
)
from pipeline.contract.orders import AnyOrder, encode_order, join_orders, schema_of_all, with_context
from pipeline.process import metrics
from pipeline.process.shares import Busy
from web.problems import problems
from web.problems.problems import Problem
from web.requests.head import HEAD, Head
from web.requests.idempotency_keys import idempotency_key
from web.requests.ids import canonical_id
from web.requests.json_body import elements_of
from web.serving.body import read_json_or_ndjson_body

MAX_ORDERS = 1_000
MAX_ALL_LINES = 2_000
"""Of all orders together. So no bulk request takes more than twice the work of one without `lines`."""
# Orders handled at a time, and how long until other requests have their turn. A basket may take as long as 50 orders.
_SLICE, _TURN_S = 5, 0.002

T = TypeVar("T")


class _Details(msgspec.Struct, rename="camel", kw_only=True):
    """What identifies an element besides its lines, whether or not it may be ordered."""

    reference: str | None = None
    metadata: dict[str, str] | None = None


class _Line(msgspec.Struct, rename="camel"):
    product_id: str
    quantity: int


class _OfOneProduct(_Details, rename="camel"):
    product_id: str
    quantity: int


class _OfLines(_Details, rename="camel"):
    lines: list[_Line]


_of_one_product, _of_lines = msgspec.json.Decoder(_OfOneProduct), msgspec.json.Decoder(_OfLines)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# The end of a string is optional, so the pattern looks at each byte once, even in invalid JSON.
_WHITE_SPACE = re.compile(rb'("(?:[^"\\]|\\.)*+"?)|[ \t\r\n]++', re.DOTALL)


def split(body: bytes, *, is_ndjson: bool) -> list[bytes]:
    """The elements of the body, not yet decoded. Raises Problem (400, 422)."""
    # Not splitlines(): a \r by itself is white space in JSON.
    elements = (
        [line for line in map(bytes.strip, body.split(b"\n")) if line] if is_ndjson else elements_of(body, MAX_ORDERS)
    )
    if not 1 <= len(elements) <= MAX_ORDERS:
        raise problems.invalid("", f"A bulk request holds 1 to {MAX_ORDERS} orders, not {len(elements)}.")
    return elements


def read(element: bytes) -> Request:
    """Decodes one element by itself: a request, or its problem."""
    try:
        request = decode_request(element)
        be_canonical(request)
    except Problem as problem:
        return problem.with_traceback(None)  # a traceback would keep its frames, and what they hold
    return request


def fingerprint_of_all(elements: Sequence[bytes], requests: Sequence[Request]) -> bytes:
    """Identifies a bulk request under its key: what the client ordered, in which order.

    It depends on nothing that this service says or decides, because the ids of all orders derive from it. Otherwise a
    reworded message or a new rule would duplicate each valid order of a retry.
    """
    return _together(_fingerprints_of(elements, requests))


def _fingerprints_of(elements: Sequence[bytes], requests: Sequence[Request]) -> list[bytes]:
    return [
        _fingerprint_of_refused(element) if isinstance(request, Problem) else fingerprint_of(request)
        for element, request in zip(elements, requests, strict=True)
    ]


def _together(fingerprints: Iterable[bytes]) -> bytes:
    return blake2b(b"".join(fingerprints), digest_size=FINGERPRINT_BYTES).digest()


def _check_lines(requests: Sequence[Request]) -> None:
    """Raises Problem (422) if the orders have too many lines together."""
    lines = sum(len(requested_lines(it)) for it in requests if not isinstance(it, Problem))
    if lines > MAX_ALL_LINES:
        detail = f"The orders have {lines} lines together. Send at most {MAX_ALL_LINES} in one request."
        raise problems.invalid("", detail)


def to_orders(
    order_ids: Sequence[str], requests: Sequence[Request], products: Mapping[str, Product], now: datetime
) -> list[AnyOrder | Problem]:
    """The order or the problem of each request. `products`: by canonical id; those not looked up are missing."""
    return [_to_order(*it, products, now) for it in zip(order_ids, requests, strict=True)]


def _to_order(order_id: str, request: Request, products: Mapping[str, Product], now: datetime) -> AnyOrder | Problem:
    if isinstance(request, Problem):
        return request
    try:
        return to_any_order(order_id, request, prices_of(request, products), now)
    except Problem as problem:
        return problem.with_traceback(None)


def answer_of(priced: AnyOrder | Problem, place: int) -> bytes:
    """One element of the answer. A problem's pointer names the field in the whole body."""
    return priced.below(f"/{place}").body() if isinstance(priced, Problem) else encode_order(priced)


def _lines_behind_the_first(request: Request) -> int:
    return len(request.lines) - 1 if isinstance(request, BasketRequest) else 0


def _read_all(elements: Sequence[bytes]) -> list[Request]:
    return [read(element) for element in elements]


def _answers_of(priced: Sequence[AnyOrder | Problem], places: Sequence[int]) -> list[bytes]:
    return [answer_of(it, place) for it, place in zip(priced, places, strict=True)]


def _encode_all(orders: Sequence[AnyOrder], trace: str | None, client: str, *, is_keyed: bool) -> list[bytes]:
    """The orders as they stand in a message."""
    return [with_context(encode_order(it), trace, _request_hash(it) if is_keyed else None, client) for it in orders]


def _request_hash(order: AnyOrder) -> str:
    return fingerprint_of(order).hex()


def _fingerprint_of_refused(element: bytes) -> bytes:
    """Hashes what is ordered where it can be read: a later release may accept what this one refuses.

    Otherwise it hashes the client's bytes, without the white space between tokens.
    """
    try:
        return fingerprint_of(_ordered_in(element))
    except ValueError:
        return blake2b(_WHITE_SPACE.sub(rb"\1", element), digest_size=FINGERPRINT_BYTES).digest()


def _ordered_in(element: bytes) -> AnyRequest:
    """What a refused element orders. Raises ValueError if that cannot be read."""
    with suppress(*_UNREADABLE):
        one = _of_one_product.decode(element)
        product_id = _canonical(one.product_id)
        return OrderRequest(product_id, one.quantity, reference=one.reference, metadata=one.metadata or None)
    try:
        several = _of_lines.decode(element)
    except _UNREADABLE as error:
        raise ValueError("no lines") from error
    lines = [LineRequest(_canonical(line.product_id), line.quantity) for line in several.lines]
    return BasketRequest(lines=lines, reference=several.reference, metadata=several.metadata or None)


def _canonical(product_id: str) -> str:
    if (canonical := canonical_id(product_id)) is None:
        raise ValueError("no UUID")
    return canonical


# ── I/O below


class AcceptBulk:
    """The ASGI endpoint of POST /api/v1/orders/bulk."""

    def __init__(self, intake: Intake, max_body_bytes: int) -> None:
        self._intake, self._max_body_bytes = intake, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Head = scope[HEAD]
        client, limits = head.client, self._intake.limits
        try:
            limits.check(client)
            try:
                key = idempotency_key(head.idempotency_keys)
                if self._intake.bulks.is_full:
                    raise problems.overloaded(self._intake.commits.retry_after_s())
                body, is_ndjson = await read_json_or_ndjson_body(head, receive, self._max_body_bytes)
                elements = split(body, is_ndjson=is_ndjson)
            except Problem:
                send = limits.charge(client, 1, send)  # a flood of bad requests is a flood too
                raise
            send, untold = limits.charge(client, len(elements), send), send
            with self._room(client.name, len(elements)):
                requests = await _in_slices(_read_all, elements)
                _check_lines(requests)
                if more := sum(map(_lines_behind_the_first, requests)):
                    send = limits.owe(client, more, untold)
                return await self._answer(key, elements, requests, head, send)
        except Problem as problem:
            metrics.ORDERS_REFUSED.labels(problem.name).inc()
            return await problem(scope, receive, send)

    async def _answer(
        self, key: str | None, elements: Sequence[bytes], requests: list[Request], head: Head, send: Send
    ) -> None:
        if key is not None:
            fingerprint = _together(await _in_slices(_fingerprints_of, elements, requests))
            return await self._answer_keyed(key, fingerprint, requests, head, send)
        order_ids = await _in_slices(lambda some: [self._intake.ids.mint() for _ in some], requests)
        results = await self._price(head.client.name, order_ids, requests)
        orders = [it for it in results if not isinstance(it, Problem)]
        if orders:
            await self._publish(head, orders)
        return await _send(send, self._intake.status if orders else 422, results)

    @contextmanager
    def _room(self, client: str, orders: int) -> Iterator[None]:
        """Hold places for the orders, from before they are decoded until they are answered. Raises Problem (503)."""
        if not self._intake.commits.has_room(orders):
            raise problems.overloaded(self._intake.commits.retry_after_s())
        try:
            self._intake.bulks.take(client, orders)
        except Busy:
            raise problems.overloaded(self._intake.commits.retry_after_s()) from None
        try:
            yield
        finally:
            self._intake.bulks.give_back(client, orders)

    async def _answer_keyed(
        self, key: str, fingerprint: bytes, requests: list[Request], head: Head, send: Send
    ) -> None:
        client = head.client.name

        async def publish(orders: Sequence[AnyOrder]) -> None:
            await self._publish(head, orders, is_keyed=True)

        keyed = KeyedRequest(client, key, fingerprint, requests, is_bulk=True)
        answer = await self._intake.keyed.accept(keyed, partial(self._price, client), publish)
        return await _send(send, answer.status, answer.results, replayed=answer.is_replayed)

    async def _price(
        self, client: str, order_ids: Sequence[str], requests: Sequence[Request]
    ) -> list[AnyOrder | Problem]:
        """The order or the problem of each request. Raises Problem (503)."""
        if not requests:
            return []
        products = await self._products(requests, client)
        return await _in_slices(partial(to_orders, products=products, now=datetime.now(UTC)), order_ids, requests)

    async def _publish(self, head: Head, orders: Sequence[AnyOrder], *, is_keyed: bool = False) -> None:
        """Publish one message, and wait for its confirm. Raises Problem (503)."""
        trace, client = head.traceparent, head.client.name
        encode_all = partial(_encode_all, trace=trace, client=client, is_keyed=is_keyed)
        await confirmed(self._intake.commits, await _in_slices(encode_all, orders), schema_of_all(orders))

    async def _products(self, requests: Sequence[Request], client: str) -> dict[str, Product]:
        """The requests' products by id; those that could not be looked up are missing. Raises Problem (503)."""
        ids = {line.product_id for it in requests if not isinstance(it, Problem) for line in requested_lines(it)}
        try:
            return await self._intake.catalogue.find_all(ids, client)
        except Busy:
            raise problems.overloaded(self._intake.commits.retry_after_s()) from None


async def _in_slices(work: Callable[..., list[T]], *columns: Sequence[Any]) -> list[T]:
    """Do `work` on the columns, a few of each at a time: 1,000 at once would keep others waiting for 20 ms."""
    done: list[T] = []
    now = asyncio.get_running_loop().time
    turn_ends = now() + _TURN_S
    for start in range(0, len(columns[0]), _SLICE):
        done += work(*(column[start : start + _SLICE] for column in columns))
        if now() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = now() + _TURN_S
    return done


async def _send(send: Send, status: int, results: Sequence[AnyOrder | Problem], *, replayed: bool = False) -> None:
    if not replayed:
        for it in results:
            if isinstance(it, Problem):
                metrics.ORDERS_REFUSED.labels(it.name).inc()
    body = join_orders(await _in_slices(_answers_of, results, range(len(results))))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if replayed:
        headers.append((b"idempotency-replayed", b"true"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
