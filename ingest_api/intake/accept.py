"""POST /api/v1/orders: a body becomes 202, a 4xx or a 503. The whole policy is on this page.

An ASGI class rather than a request/response function: Starlette's Request and Response objects cost 27 % of the
throughput (measured: 13,350 against 9,700 requests/s).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from ingest_api.idempotency.keyed import KeyedOrders, KeyedRequest
from ingest_api.idempotency.records import Request, fingerprint_of
from ingest_api.intake.group_commit import Full, GroupCommit, Unavailable
from ingest_api.prices.catalogue import Catalogue
from ingest_api.prices.pricing import price
from ingest_api.requests import AnyRequest, BasketRequest, be_canonical, decode_request
from pipeline.broker.publisher import Outcome
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import AnyOrder, encode_order, schema_of, with_context
from pipeline.process import metrics
from pipeline.process.shares import Shares
from web.access.rate_limit import RateLimits
from web.problems import problems, unknown_outcomes
from web.problems.problems import Problem
from web.requests.head import HEAD, Head
from web.requests.idempotency_keys import idempotency_key
from web.serving.body import read_json_body

# The problem for each outcome but CONFIRMED. Only with UNKNOWN may the order have been accepted.
_PROBLEMS = {
    Outcome.REFUSED: problems.overloaded,
    Outcome.BROKEN: problems.broker_unavailable,
    Outcome.UNROUTABLE: problems.broker_unavailable,
    Outcome.NOT_SENT: problems.broker_unavailable,
    Outcome.UNKNOWN: unknown_outcomes.broker_is_silent,
}

_REPLAYED = ((b"idempotency-replayed", b"true"),)


@dataclass(frozen=True, slots=True)
class Intake:
    """Everything that accepting orders takes, one by one or many at once."""

    catalogue: Catalogue
    ids: OrderIds
    commits: GroupCommit
    keyed: KeyedOrders
    limits: RateLimits
    bulks: Shares
    """Places for the orders of bulk requests."""
    status: int
    """Status of the answer to an accepted order: 202, or 201 for clients that insist."""


# ── I/O below


class AcceptOrder:
    """The ASGI endpoint of POST /api/v1/orders."""

    def __init__(self, intake: Intake, max_body_bytes: int) -> None:
        self._intake, self._max_body_bytes = intake, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Head = scope[HEAD]
        limits, untold = self._intake.limits, send
        try:
            # Charged before anything is read, whatever comes of it: a flood of bad requests or replays is a flood too.
            send = limits.charge(head.client, 1, untold)
            key = idempotency_key(head.idempotency_keys)
            request = decode_request(await read_json_body(head, receive, self._max_body_bytes))
            if isinstance(request, BasketRequest):
                send = limits.owe(head.client, len(request.lines) - 1, untold)
            if key is not None:
                return await self._answer_keyed(key, request, scope, send)
            order_id = self._intake.ids.mint()
            order = await price(self._intake.catalogue, order_id, request, head.client.name)
            answer = await self._accept(order, head, None)
        except Problem as problem:
            metrics.ORDERS_REFUSED.labels(problem.name).inc()
            return await problem(scope, receive, send)
        return await _send_accepted(scope, send, self._intake.status, order_id, answer)

    async def _answer_keyed(self, key: str, request: AnyRequest, scope: Scope, send: Send) -> None:
        head: Head = scope[HEAD]
        client, catalogue = head.client.name, self._intake.catalogue
        be_canonical(request)
        fingerprint = fingerprint_of(request)

        async def price_one(order_ids: Sequence[str], _: Sequence[Request]) -> list[AnyOrder | Problem]:
            try:
                return [await price(catalogue, order_ids[0], request, client)] if order_ids else []
            except Problem as problem:
                return [problem]

        async def publish(orders: Sequence[AnyOrder]) -> None:
            for order in orders:
                await self._accept(order, head, fingerprint.hex())

        keyed = KeyedRequest(client, key, fingerprint, [request], is_bulk=False)
        answer = await self._intake.keyed.accept(keyed, price_one, publish)
        (order,) = answer.results
        if isinstance(order, Problem):
            raise order
        extra = _REPLAYED if answer.is_replayed else ()
        return await _send_accepted(scope, send, answer.status, order.id, encode_order(order), extra)

    async def _accept(self, order: AnyOrder, head: Head, request_hash: str | None) -> bytes:
        """Publish, and wait for the confirm. Returns the answer. Raises Problem (503)."""
        answer = encode_order(order)
        encoded = with_context(answer, head.traceparent, request_hash, head.client.name)
        await confirmed(self._intake.commits, [encoded], schema_of(order))
        return answer


async def confirmed(commits: GroupCommit, encoded: list[bytes], schema: int) -> None:
    """Publish orders, all or none, and wait for the confirm. `schema`: of all of them. Raises Problem (503)."""
    try:
        outcome = await (
            commits.submit(encoded[0], schema) if len(encoded) == 1 else commits.submit_all(encoded, schema)
        )
    except Unavailable:
        raise problems.broker_unavailable(commits.retry_after_s()) from None
    except Full:
        raise problems.overloaded(commits.retry_after_s()) from None
    if outcome is not Outcome.CONFIRMED:
        raise _PROBLEMS[outcome](commits.retry_after_s())


async def _send_accepted(
    scope: Scope, send: Send, status: int, order_id: str, body: bytes, extra: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"location", f"{scope['root_path']}/api/v1/orders/{order_id}".encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
