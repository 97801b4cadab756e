"""POST /api/v1/orders/{id}/cancel: takes a client's order back. The whole policy is on this page.

not an id of ours, or another client's order    404, as GET answers
CANCELLED already, or FAILED for ever           200 with the order as it is: nothing is left to do, so a client may send
                                                a cancellation as often as it likes
anything else                                   202 once the broker has the cancellation. product_consumer decides what
                                                becomes of it; with `wait`, 200 if that was soon enough

While PostgreSQL is away, nobody knows the order, and the cancellation is accepted: product_consumer checks the owner.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from database.sessions import StoreUnavailable
from ingest_api.intake.group_commit import Full, GroupCommit, Unavailable
from ingest_api.reads.lookup import Found, OrderLookup, answer, wait_for
from ingest_api.reads.verdicts import Expected, Verdicts
from pipeline.broker.publisher import Outcome
from pipeline.contract.cancellations import Cancellation, CancelReason, encode_cancellation
from pipeline.contract.order_view import OrderView
from pipeline.process.shares import Busy
from web.access.clients import Client, Guard
from web.access.rate_limit import RateLimits
from web.problems import problems, unknown_outcomes
from web.problems.problems import Problem
from web.requests.head import Head, client_now, head_of
from web.requests.ids import id_in_path
from web.requests.json_body import JsonBody, Rule
from web.requests.waits import parse_wait
from web.serving.body import read_optional_json_body

# A reason of 200 characters, each of them escaped, and white space.
MAX_BODY_BYTES = 4096

# The problem for each outcome but CONFIRMED. Only with UNKNOWN may the broker have the cancellation.
_PROBLEMS = {
    Outcome.REFUSED: problems.cancellations_overloaded,
    Outcome.BROKEN: problems.not_cancelled,
    Outcome.UNROUTABLE: problems.not_cancelled,
    Outcome.NOT_SENT: problems.not_cancelled,
    Outcome.UNKNOWN: unknown_outcomes.cancellation_unanswered,
}


class CancelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may send."""

    reason: CancelReason | UnsetType = UNSET


# No problem repeats the client's own words, because others keep problems in their logs.
_REASON = Rule("a string of 1 to 200 characters, none of them NUL", lambda _: None, is_private=True)
_body = JsonBody(CancelRequest, reason=_REASON)


def decode_cancel(body: bytes) -> str | None:
    """The reason; None: the client gives none. Raises Problem (400, 422)."""
    reason = _body.decode(body).reason if body else UNSET
    return None if reason is UNSET else reason


# ── I/O below


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """The ASGI endpoint. `commits`: to orders.cancel_requested."""

    lookup: OrderLookup
    verdicts: Verdicts
    commits: GroupCommit
    limits: RateLimits
    guard: Guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            # It costs as much as an order, so it counts as one.
            send = self.limits.charge(head_of(request).client, 1, send)
            response = await self._answer(request)
        except Problem as problem:
            response = problem.response()
        except Busy:
            response = problems.busy().response()
        except StoreUnavailable as error:
            response = problems.store_unavailable(str(error)).response()
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        head, order_id = head_of(request), id_in_path(request, "order")
        wait_s = parse_wait(request.query_params.get("wait"))
        reason = decode_cancel(await read_optional_json_body(head, request.receive, MAX_BODY_BYTES))
        found = await self.lookup.find([order_id], head.client)
        if found.order(order_id).is_over:
            return answer(found.order(order_id), found.source)
        cancellation = _cancellation(order_id, head.client, reason)
        if not wait_s:
            await self._publish(cancellation)
        else:
            until = asyncio.get_running_loop().time() + wait_s
            with self.verdicts.expect([order_id], head.client.name, cancels=True) as expected:
                await self._publish(cancellation)
                found = await self._settled(expected[order_id], until, found, head, request.receive)
        return _accepted(found.order(order_id), found.source, request)

    async def _publish(self, cancellation: Cancellation) -> None:
        """Publish, and wait for the confirm. Raises Problem (503)."""
        try:
            outcome = await self.commits.submit(encode_cancellation(cancellation))
        except Unavailable:
            raise problems.not_cancelled(self.commits.retry_after_s()) from None
        except Full:
            raise problems.cancellations_overloaded(self.commits.retry_after_s()) from None
        if outcome is not Outcome.CONFIRMED:
            raise _PROBLEMS[outcome](self.commits.retry_after_s())

    async def _settled(self, expected: Expected, until: float, before: Found, head: Head, receive: Receive) -> Found:
        """The order once the cancellation is settled, or as it was if that takes too long. Raises Problem (401,
        403), ClientDisconnect.
        """
        await wait_for([expected], until, receive)
        client = client_now(head, self.guard)
        row = expected.result() if expected.done() else None
        if row is not None:
            return self.lookup.seen([row], client)
        return before if client.sees_as(head.client) else await self.lookup.find(list(before.orders), client)


def _cancellation(order_id: str, client: Client, reason: str | None) -> Cancellation:
    return Cancellation(order_id, datetime.now(UTC), client.name, client.sees_all, reason)


def _accepted(order: OrderView, source: str, request: Request) -> Response:
    if order.is_over:
        return answer(order, source)
    return answer(order, source, 202, {"Location": f"{request.scope['root_path']}/api/v1/orders/{order.id}"})
