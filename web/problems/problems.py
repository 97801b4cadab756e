"""Errors as RFC 9457 `application/problem+json`: the exception, and a function that makes it for each cause.

    Problem
    ├── 4xx  the caller's fault: the detail says what to change
    └── 503  the world's fault: Retry-After says when to try again

Where the texts are:

    web/problems/kinds.py             of each kind: title, meaning and remedy, which are documentation
    here                              of each cause: the detail
    web/problems/unknown_outcomes.py  the details of 503 `outcome-unknown`, which has many causes
    the caller                        the detail, where a function here takes it: the caller knows which rule is broken
    web/problems/handlers.py          the details of 404 and 405 for paths, and of 500
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from web.problems import kinds
from web.problems.kinds import Kind
from web.problems.refusal_log import RefusalLog

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


def below(error: FieldError, pointer: str) -> FieldError:
    """The same error in a body that stands at `pointer` in a larger one."""
    if error.pointer is None:
        return error
    return msgspec.structs.replace(error, pointer=f"#{pointer}{error.pointer.removeprefix('#')}")


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
        moved = [below(error, pointer) for error in self.errors]
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


def unknown_lines(products: Mapping[int, str]) -> Problem:
    """Lines of an order whose products do not exist. `products`: by the number of the line; at least one."""
    errors = [_at_line(line, f"There is no product {it}, or it was deleted.") for line, it in products.items()]
    which = errors[0].detail if len(errors) == 1 else f"There are no products for {len(errors)} lines: see errors."
    return Problem(kinds.UNKNOWN_PRODUCT, f"{which} Take the ids of products from GET /products.", errors=errors)


def out_of_stock(product_id: str) -> Problem:
    return Problem(kinds.OUT_OF_STOCK, f"Product {product_id} is sold out. Order again once it is restocked.")


def sold_out_lines(products: Mapping[int, str]) -> Problem:
    """Lines of an order whose products are sold out. `products`: as of `unknown_lines`."""
    errors = [_at_line(line, f"Product {it} is sold out.") for line, it in products.items()]
    which = errors[0].detail if len(errors) == 1 else f"The products of {len(errors)} lines are sold out: see errors."
    return Problem(kinds.OUT_OF_STOCK, f"{which} Order without them, or once they are restocked.", errors=errors)


def _at_line(line: int, detail: str) -> FieldError:
    return FieldError(detail, pointer=f"#/lines/{line}/productId")


def request_in_flight() -> Problem:
    detail = "A request with this Idempotency-Key is still being carried out. Send it again later to get its answer."
    return Problem(kinds.REQUEST_IN_FLIGHT, detail, retry_after_s=1)


def key_reused() -> Problem:
    detail = "An earlier, different request had this Idempotency-Key. Use a new key for a new request."
    return Problem(kinds.KEY_REUSED, detail)


def not_found(what: str) -> Problem:
    return Problem(kinds.NOT_FOUND, f"There is no {what}.")


def cursor_unknown() -> Problem:
    detail = "This event log does not have the cursor. Begin again with after=now, or with a time."
    return Problem(kinds.CURSOR_UNKNOWN, detail, errors=[FieldError(detail, parameter="after")])


def misdirected(host: str) -> Problem:
    detail = (
        f"The Host is {host[:100]}. Without API keys this service answers to loopback names only: use localhost or"
        " 127.0.0.1, add the host to ALLOWED_HOSTS, or make keys with ./headrace keys add."
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
    detail = f"The body is compressed: its Content-Encoding is {coding}. Send it uncompressed."
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
        " its ETag as If-Match, without W/. If that ETag has W/ as well, a proxy in between has added it, for example"
        " by compressing the answer."
    )
    return Problem(kinds.WEAK_ETAG, detail)


def version_excluded(current: int) -> Problem:
    detail = (
        f'The product has the ETag "{current}", which If-None-Match excludes. Nothing was changed. To change it, send'
        " the ETag as If-Match, without If-None-Match."
    )
    return Problem(kinds.VERSION_MISMATCH, detail)


def precondition_required() -> Problem:
    detail = "Orders change qty meanwhile: send the product's ETag as If-Match, or If-Match: * to overwrite."
    return Problem(kinds.PRECONDITION_REQUIRED, detail)


def too_many_requests(detail: str, retry_after_s: int, headers: Mapping[str, str]) -> Problem:
    return Problem(kinds.TOO_MANY_REQUESTS, detail, retry_after_s=retry_after_s, headers=headers)


# ── the world's fault. Retry-After is in seconds, at least 1.


def broker_unavailable(retry_after_s: int = 1) -> Problem:
    detail = (
        "The order was not accepted: the broker cannot be reached, or refuses messages for the moment. Send it again."
    )
    return Problem(kinds.BROKER_UNAVAILABLE, detail, retry_after_s=retry_after_s)


def overloaded(retry_after_s: int = 1) -> Problem:
    detail = "The order was not accepted: too many orders are waiting already. Send it again, more slowly."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=retry_after_s)


def not_cancelled(retry_after_s: int = 1) -> Problem:
    detail = (
        "The order was not cancelled: the broker cannot be reached, or refuses messages for the moment. Send the"
        " cancellation again."
    )
    return Problem(kinds.BROKER_UNAVAILABLE, detail, retry_after_s=retry_after_s)


def cancellations_overloaded(retry_after_s: int = 1) -> Problem:
    detail = "The order was not cancelled: too many cancellations are waiting already. Send it again, more slowly."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=retry_after_s)


def busy() -> Problem:
    """The answer `overloaded` to requests that are not orders."""
    detail = "Too many requests of this sort are waiting, from all clients or from you. Send it again, more slowly."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=1)


def too_many_connections(limit: int) -> Problem:
    detail = f"There are {limit} connections already. Send fewer requests at once, over connections that stay open."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=1, headers=_CLOSE)


def too_many_bodies() -> Problem:
    detail = "Too many unfinished bodies are held already. Send the request again later, in one go."
    return Problem(kinds.OVERLOADED, detail, retry_after_s=1, headers=_CLOSE)


def store_unavailable(cause: str = "") -> Problem:
    detail = "The database cannot be reached, or is too slow to answer. Nothing was changed. Send it again later."
    return Problem(kinds.STORE_UNAVAILABLE, detail, retry_after_s=1, cause=cause)
