"""Errors as RFC 9457 `application/problem+json`: all that the two APIs answer, in one place.

    Problem
    ├── 4xx  the caller's fault: the detail says what to change
    └── 503  the world's fault: Retry-After says when to try again

An exception that is not a Problem is a bug of Headrace: it is logged with its traceback, and the caller gets a bare
500.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipeline.process.shares import Busy
from web.problems import kinds
from web.problems.kinds import Kind
from web.problems.refusal_log import RefusalLog

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
_refusals = RefusalLog()
_CLOSE = {"Connection": "close"}
_CHALLENGE = 'Bearer realm="headrace"'


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value that is not allowed: where it is, and why."""

    detail: str
    pointer: str | None = None
    """Where in the body: RFC 6901, as the fragment of a URI (`#/quantity`)."""
    parameter: str | None = None
    """Its name in the query."""


class Problem(Exception):
    """One error, ready to be sent. Also an ASGI application that sends itself."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        cause: str = "",
    ) -> None:
        """`detail`: what to do. `cause`: why, for the log alone; of a 503."""
        super().__init__(detail)
        self.kind, self.detail, self.errors = kind, detail, tuple(errors)
        self.retry_after_s, self.headers, self.cause = retry_after_s, dict(headers or {}), cause

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def status(self) -> int:
        return self.kind.status

    def below(self, pointer: str) -> "Problem":
        """The same problem for a body that stands at `pointer` in a larger one."""
        moved = [
            msgspec.structs.replace(error, pointer=f"#{pointer}{error.pointer.removeprefix('#')}")
            if error.pointer is not None
            else error
            for error in self.errors
        ]
        return Problem(self.kind, self.detail, errors=moved, retry_after_s=self.retry_after_s, headers=self.headers)

    def body(self) -> bytes:
        content: dict[str, Any] = {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if self.errors:
            content["errors"] = self.errors
        return msgspec.json.encode(content)

    def response(self) -> Response:
        if self.status == 503:
            _refusals.tell(self.name, self.cause or self.detail)
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return Response(self.body(), self.status, headers, media_type=MEDIA_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.response()(scope, receive, send)


# ── the caller's fault


def malformed(detail: str) -> Problem:
    return Problem(kinds.MALFORMED, detail)


def invalid_query(errors: Sequence[FieldError]) -> Problem:
    """Parameters that the operation does not take, or that come more than once. At least one."""
    detail = errors[0].detail if len(errors) == 1 else f"{len(errors)} query parameters are not allowed: see errors."
    return Problem(kinds.INVALID_QUERY, detail, errors=errors)


def unauthenticated(detail: str) -> Problem:
    """The request has no key. Then the challenge has no error (RFC 6750, section 3.1)."""
    return Problem(kinds.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": _CHALLENGE})


def invalid_token(detail: str) -> Problem:
    """The request has a key that is unknown, revoked or malformed."""
    challenge = f'{_CHALLENGE}, error="invalid_token"'
    return Problem(kinds.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})


def forbidden(scope: str) -> Problem:
    challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'
    detail = f"The API key does not have the scope {scope}. Use one that has."
    return Problem(kinds.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})


def invalid(pointer: str, detail: str) -> Problem:
    """A well-formed value that is not allowed. `pointer`: where in the body, as RFC 6901."""
    return invalid_values([FieldError(detail, pointer=f"#{pointer}")])


def invalid_parameter(name: str, detail: str) -> Problem:
    """A parameter of the query that is not allowed."""
    return invalid_values([FieldError(detail, parameter=name)])


def invalid_values(errors: Sequence[FieldError]) -> Problem:
    """All values that are wrong in a request, at once. At least one."""
    if len(errors) == 1:
        return Problem(kinds.INVALID_VALUE, errors[0].detail, errors=errors)
    return Problem(kinds.INVALID_VALUE, f"{len(errors)} values are not allowed: see errors.", errors=errors)


def unknown_product(product_id: str) -> Problem:
    detail = f"There is no product {product_id}, or it was deleted. Take the id of one from GET /products."
    return Problem(kinds.UNKNOWN_PRODUCT, detail, errors=[FieldError(detail, pointer="#/productId")])


def out_of_stock(product_id: str) -> Problem:
    return Problem(kinds.OUT_OF_STOCK, f"Product {product_id} is sold out. Order again once it is restocked.")


def request_in_flight() -> Problem:
    detail = "A request with this Idempotency-Key has not been answered yet. Send it again to get its answer."
    return Problem(kinds.REQUEST_IN_FLIGHT, detail, retry_after_s=1)


def key_reused() -> Problem:
    detail = "This Idempotency-Key came with another request before. Use a new key for a new request."
    return Problem(kinds.KEY_REUSED, detail)


def not_found(what: str) -> Problem:
    return Problem(kinds.NOT_FOUND, f"There is no {what}.")


def misdirected(host: str) -> Problem:
    detail = (
        f"The Host is {host[:100]}. Without API keys this service answers to the loopback alone: use localhost or"
        " 127.0.0.1, name the host in ALLOWED_HOSTS, or make keys with ./headrace keys add."
    )
    return Problem(kinds.MISDIRECTED, detail, headers=_CLOSE)


def too_large(limit_bytes: int) -> Problem:
    return Problem(kinds.TOO_LARGE, f"The body is larger than {limit_bytes} bytes. Send less.", headers=_CLOSE)


def not_json(content_type: str, takes: Sequence[str], *, is_patch: bool = False) -> Problem:
    """`takes`: the media types that would do."""
    listed = ", ".join(takes)
    detail = f"The body is {content_type or 'of no declared type'}. Send it with Content-Type: {' or '.join(takes)}."
    # RFC 9110, section 12.5.1; RFC 5789, section 2.2.
    headers = {"Accept": listed, "Accept-Patch": listed} if is_patch else {"Accept": listed}
    return Problem(kinds.NOT_JSON, detail, headers=headers)


def coded_body(coding: str) -> Problem:
    detail = f"The body is compressed: its Content-Encoding is {coding}. Send it as it is."
    return Problem(kinds.NOT_JSON, detail, headers={"Accept-Encoding": "identity"})


def head_too_large(limit_bytes: int) -> Problem:
    detail = f"The request line and the headers are larger than {limit_bytes} bytes. Send less."
    return Problem(kinds.HEAD_TOO_LARGE, detail, headers=_CLOSE)


def too_slow(what: str, deadline_s: float) -> Problem:
    """`what`: the part of the request."""
    detail = f"The {what} was not complete within {deadline_s:g} s. Send it in one go."
    return Problem(kinds.TOO_SLOW, detail, headers=_CLOSE)


def version_mismatch(current: int) -> Problem:
    detail = (
        f'The product has changed; its ETag is now "{current}". GET it again and repeat the change on what you find.'
    )
    return Problem(kinds.VERSION_MISMATCH, detail)


def weak_etag() -> Problem:
    detail = (
        'A weak ETag, like W/"3", cannot be used for a change: If-Match compares strongly. GET the product, and send'
        " its ETag as If-Match, without W/. If the answer has W/ as well, a proxy between has added it: one that"
        " compresses answers does."
    )
    return Problem(kinds.WEAK_ETAG, detail)


def version_excluded(current: int) -> Problem:
    detail = (
        f'The product is there with the ETag "{current}", which If-None-Match excludes. Nothing was changed. To change'
        " it, leave If-None-Match out, and send the ETag as If-Match."
    )
    return Problem(kinds.VERSION_MISMATCH, detail)


def precondition_required() -> Problem:
    detail = "Orders move qty meanwhile: send the product's ETag as If-Match, or If-Match: * to overwrite."
    return Problem(kinds.PRECONDITION_REQUIRED, detail)


def too_many_requests(detail: str, retry_after_s: int, headers: Mapping[str, str]) -> Problem:
    return Problem(kinds.TOO_MANY_REQUESTS, detail, retry_after_s=retry_after_s, headers=headers)


# ── the world's fault. Retry-After is in seconds, at least 1.


def broker_unavailable(retry_after_s: int = 1) -> Problem:
    detail = "The order was not accepted: the broker is away, or takes nothing for the moment. Send it again."
    return Problem(kinds.BROKER_UNAVAILABLE, detail, retry_after_s=retry_after_s)


def overloaded(retry_after_s: int = 1) -> Problem:
    detail = "The order was not accepted: more are waiting than can be held. Send it again, more slowly."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=retry_after_s)


def busy() -> Problem:
    """The answer `overloaded` to requests that are not orders."""
    detail = "More requests of this sort are waiting than can be held, or than your share. Send it again, more slowly."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=1)


def too_many_connections(limit: int) -> Problem:
    detail = f"There are {limit} connections already. Send fewer requests at once, over connections that stay open."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=1, headers=_CLOSE)


def too_many_bodies() -> Problem:
    detail = "More bodies are on their way than can be held. Send it again later, in one go."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=1, headers=_CLOSE)


def store_unavailable(cause: str = "") -> Problem:
    detail = "The database is away or too slow to answer, and nothing was changed. Ask again later."
    return Problem(kinds.STORE_UNAVAILABLE, detail, retry_after_s=1, cause=cause)


# ── Starlette's handlers


async def on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def on_disconnect(_: Request, __: Exception) -> Response:
    """The client left before its body was complete. Nobody reads this answer; 499 is nginx's status for it."""
    return Response(status_code=499)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Turns Starlette's own errors into problems: 404 for a path, 405 for a method."""
    assert isinstance(error, HTTPException)
    kind, detail = {
        404: (kinds.NOT_FOUND, f"There is nothing at {request.url.path}. Paths have no slash at their end."),
        405: (kinds.METHOD_NOT_ALLOWED, f"{request.method} does not work here. The Allow header says what does."),
    }.get(error.status_code, (kinds.MALFORMED, error.detail))
    return Problem(kind, detail, headers=error.headers).response()


async def on_bug(request: Request, error: Exception) -> Response:
    log.error("unhandled exception", path=request.url.path, exc_info=error)
    detail = "This is a fault of the service; it is in its log. The request may or may not have been carried out."
    return Problem(kinds.INTERNAL_ERROR, detail).response()


async def on_store_unavailable(_: Request, error: Exception) -> Response:
    return store_unavailable(str(error)).response()


async def on_busy(_: Request, __: Exception) -> Response:
    return busy().response()


HANDLERS = {
    Problem: on_problem,
    Busy: on_busy,
    ClientDisconnect: on_disconnect,
    HTTPException: on_http_exception,
    Exception: on_bug,
}
