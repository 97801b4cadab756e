"""Errors as RFC 9457 `application/problem+json`: every kind that the two APIs answer, in one place.

    Problem
    ├── 4xx  the caller's fault: the detail says what to change
    └── 503  the world's fault: Retry-After says when to try again

An exception that is not a Problem is our bug: it is logged with its traceback, and the caller gets a bare 500.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

log = structlog.get_logger()

_MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """One error, ready to be sent. Also an ASGI application that sends itself."""

    def __init__(
        self,
        status: int,
        name: str,
        title: str,
        detail: str,
        *,
        pointer: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`name`: the stable last part of `type`. `detail`: what to do. `pointer`: JSON pointer of the field."""
        super().__init__(detail)
        self.status, self.name, self.title, self.detail = status, name, title, detail
        self.pointer, self.retry_after_s, self.headers = pointer, retry_after_s, dict(headers or {})

    def body(self) -> bytes:
        content: dict[str, Any] = {
            "type": f"/docs/problems/{self.name}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.pointer is not None:
            content["errors"] = [{"pointer": f"#{self.pointer}", "detail": self.detail}]
        return msgspec.json.encode(content)

    def response(self) -> Response:
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return Response(self.body(), self.status, headers, media_type=_MEDIA_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.response()(scope, receive, send)


# ── the caller's fault


def malformed(detail: str) -> Problem:
    return Problem(400, "malformed", "The request is malformed", detail)


def invalid(pointer: str, detail: str) -> Problem:
    """A well-formed value that is not allowed. `pointer`: where in the body, as RFC 6901."""
    return Problem(422, "invalid-value", "A value is not allowed", detail, pointer=pointer)


def unknown_product(product_id: str) -> Problem:
    detail = f"There is no product {product_id}, or it was deleted. Take the id of one from GET /products."
    return Problem(422, "unknown-product", "The product does not exist", detail, pointer="/productId")


def out_of_stock(product_id: str) -> Problem:
    detail = f"Product {product_id} is sold out. Order again once it is restocked."
    return Problem(409, "out-of-stock", "The product is sold out", detail)


def request_in_flight() -> Problem:
    detail = "A request with this Idempotency-Key has not been answered yet. Send it again to get its answer."
    return Problem(409, "request-in-flight", "The request is being carried out", detail, retry_after_s=1)


def key_reused() -> Problem:
    detail = "This Idempotency-Key came with another order before. Use a new key for a new order."
    return Problem(422, "key-reused", "The Idempotency-Key was used before", detail)


def not_found(what: str) -> Problem:
    return Problem(404, "not-found", "Not found", f"There is no {what}.")


def too_large(limit_bytes: int) -> Problem:
    detail = f"The body is larger than {limit_bytes} bytes. Send less."
    return Problem(413, "too-large", "The body is too large", detail, headers={"Connection": "close"})


def not_json(content_type: str) -> Problem:
    detail = f"The body is {content_type or 'of no declared type'}. Send it with Content-Type: application/json."
    return Problem(415, "not-json", "The body is not JSON", detail)


def head_too_large(limit_bytes: int) -> Problem:
    detail = f"The request line and the headers are larger than {limit_bytes} bytes. Send less."
    return Problem(431, "head-too-large", "The headers are too large", detail, headers={"Connection": "close"})


def too_slow(what: str, deadline_s: float) -> Problem:
    """`what`: the part of the request."""
    detail = f"The {what} was not complete within {deadline_s:g} s. Send it in one go."
    return Problem(408, "too-slow", "The request came too slowly", detail, headers={"Connection": "close"})


def version_mismatch(current: int) -> Problem:
    detail = (
        f'The product has changed; its ETag is now "{current}". GET it again and repeat the change on what you find.'
    )
    return Problem(412, "version-mismatch", "The product has changed", detail)


# ── the world's fault


def broker_unavailable() -> Problem:
    detail = "The order was not accepted: the broker is away, or takes nothing for the moment. Send it again."
    return Problem(503, "broker-unavailable", "The order was not accepted", detail, retry_after_s=1)


def overloaded() -> Problem:
    detail = "The order was not accepted: more are waiting than can be held. Send it again, more slowly."
    return Problem(503, "overloaded", "The service is overloaded", detail, retry_after_s=1)


def too_many_connections(limit: int) -> Problem:
    detail = f"There are {limit} connections already. Send fewer requests at once, over connections that stay open."
    headers = {"Connection": "close"}
    return Problem(503, "overloaded", "The service is overloaded", detail, retry_after_s=1, headers=headers)


def too_many_bodies() -> Problem:
    detail = "More bodies are on their way than can be held. Send it again later, in one go."
    headers = {"Connection": "close"}
    return Problem(503, "overloaded", "The service is overloaded", detail, retry_after_s=1, headers=headers)


def outcome_unknown() -> Problem:
    detail = (
        "The broker did not say in time whether it has the order, so it may or may not be accepted."
        " With the same Idempotency-Key it is safe to send it again; without one, that may order twice."
    )
    return Problem(503, "outcome-unknown", "It is unknown whether the order was accepted", detail, retry_after_s=1)


def store_unavailable() -> Problem:
    detail = "The database is away or too slow to answer, and nothing was changed. Ask again later."
    return Problem(503, "store-unavailable", "The database is away", detail, retry_after_s=1)


def change_unanswered(path: str, *, is_new: bool) -> Problem:
    """`path`: where the product is, or would be."""
    look = "if it is there, it was created" if is_new else "if it has the values that you sent, the change was made"
    detail = (
        f"The database did not say whether it has made the change. GET {path} before sending it again: {look}."
        " Orders move qty and the ETag as well."
    )
    return Problem(503, "outcome-unknown", "It is unknown whether the change was made", detail, retry_after_s=1)


# ── Starlette's handlers


async def on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def on_disconnect(_: Request, __: Exception) -> Response:
    """The client left before its body was complete. Nobody reads this; 499 is nginx's word for it."""
    return Response(status_code=499)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself answers: 404 for a path, 405 for a method."""
    assert isinstance(error, HTTPException)
    name, detail = {
        404: ("not-found", f"There is nothing at {request.url.path}. Paths have no slash at their end."),
        405: ("method-not-allowed", f"{request.method} does not work here. The Allow header says what does."),
    }.get(error.status_code, ("http-error", error.detail))
    return Problem(error.status_code, name, error.detail, detail, headers=error.headers).response()


async def on_bug(request: Request, error: Exception) -> Response:
    log.error("unhandled exception", path=request.url.path, exc_info=error)
    detail = "This is a fault of the service; it is in its log. The request may or may not have been carried out."
    return Problem(500, "internal-error", "Internal error", detail).response()


HANDLERS = {Problem: on_problem, ClientDisconnect: on_disconnect, HTTPException: on_http_exception, Exception: on_bug}
