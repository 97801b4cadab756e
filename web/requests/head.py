"""A request's head, parsed once: the values of every header that decides what becomes of the request.

The connection parses it, and checks what HTTP demands. The route adds the operation and the client. An endpoint takes
it from the ASGI scope, `scope[HEAD]`, and hands it on.

Nothing is refused here. The part that uses a value checks it, at the right moment: 401 comes before 429, and 429 before
the 400 for a malformed Idempotency-Key. Such a part takes the value alone, and knows nothing of the head.
"""

import re
from collections.abc import Iterable

import msgspec
from starlette.requests import Request

from web.access.clients import ANYONE, Client, Guard
from web.requests.operations import Operation

HEAD = "headrace.head"
"""The head's place in the ASGI scope."""

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_Values = tuple[bytes, ...]


class Head(msgspec.Struct):
    """What a client's headers say. A tuple has one value for each time that the client sent the header."""

    hosts: _Values
    transfer_encodings: _Values
    content_type: bytes
    """The first that is not empty; empty if there is none."""
    content_length: int
    """0 if there is none."""
    content_encodings: _Values
    idempotency_keys: _Values
    authorizations: _Values
    traceparent: str | None
    """The W3C trace context; None if there is none. A malformed one counts as none, says the specification."""
    if_match: tuple[str, ...]
    if_none_match: tuple[str, ...]
    operation: Operation | None = None
    """The operation that the client asks for; None until its route is found."""
    client: Client = ANYONE
    """The holder of the request's API key; ANYONE where the service is open."""


def parse_head(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Parses headers whose names are in lower case, as ASGI has them. The HTTP parser has checked that Content-Length
    is a number, and comes once.
    """
    hosts: _Values = ()
    transfer_encodings: _Values = ()
    content_encodings: _Values = ()
    idempotency_keys: _Values = ()
    authorizations: _Values = ()
    traceparents: _Values = ()
    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    content_type, content_length = b"", 0
    # The headers of an order come first. A chain costs it less than a table of functions, or a dict of the headers.
    for name, value in headers:
        if name == b"host":
            hosts += (value,)
        elif name == b"content-type":
            content_type = content_type or value
        elif name == b"content-length":
            content_length = int(value)
        elif name == b"idempotency-key":
            idempotency_keys += (value,)
        elif name == b"authorization":
            authorizations += (value,)
        elif name == b"traceparent":
            traceparents += (value,)
        elif name == b"content-encoding":
            content_encodings += (value,)
        elif name == b"transfer-encoding":
            transfer_encodings += (value,)
        elif name == b"if-match":
            if_match += (value.decode("latin-1"),)
        elif name == b"if-none-match":
            if_none_match += (value.decode("latin-1"),)
    return Head(
        hosts,
        transfer_encodings,
        content_type,
        content_length,
        content_encodings,
        idempotency_keys,
        authorizations,
        _trace_of(traceparents[0]) if traceparents else None,
        if_match,
        if_none_match,
    )


def head_of(request: Request) -> Head:
    """The head of a request that has reached its endpoint."""
    head: Head = request.scope[HEAD]
    return head


def client_now(head: Head, guard: Guard) -> Client:
    """The client of a request that has lasted, with its rights of now: meanwhile the key may have been revoked, or may
    belong to another client. Raises Problem (401, 403).
    """
    assert head.operation is not None
    return guard(head.authorizations, head.operation.needs)


def _trace_of(traceparent: bytes) -> str | None:
    return traceparent.decode() if _TRACEPARENT.fullmatch(traceparent) else None
