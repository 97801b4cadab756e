"""Reads a request's body up to a limit and no further, within a deadline."""

import asyncio
from typing import ClassVar

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from web.problems.problems import Problem, coded_body, not_json, too_large, too_many_bodies, too_slow
from web.requests.head import Head
from web.serving.closures import Closed, closures

# For a body that comes in pieces. One that comes whole, as every order does, sets no deadline.
_DEADLINE_S = 10.0

# Of all unfinished bodies together: 64 of the largest, 1,000 of the largest orders.
_MAX_UNFINISHED_BYTES = 64 * 1024**2

# Every operation that takes a body takes JSON.
_JSON = b"application/json"
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
"""The names in use for NDJSON; none is registered."""


async def read_json_body(head: Head, receive: Receive, limit_bytes: int) -> bytes:
    """Read the whole body. Raises Problem (408, 413, 415), or ClientDisconnect.

    Counts what arrives rather than trusting Content-Length, which may be missing. Holds `limit_bytes` and one read.
    Refuses at once; the connection makes sure that the answer arrives.
    """
    _check_coding(head)
    if head.content_type != _JSON:
        _media_type(head)
    return await _read(receive, head.content_length, limit_bytes)


async def read_optional_json_body(head: Head, receive: Receive, limit_bytes: int) -> bytes:
    """As `read_json_body`; but a request without a body needs no Content-Type, and gives `b""`."""
    if not head.content_length and not head.transfer_encodings and not head.content_type:
        return b""
    return await read_json_body(head, receive, limit_bytes)


async def read_json_or_ndjson_body(head: Head, receive: Receive, limit_bytes: int) -> tuple[bytes, bool]:
    """Read the whole body. Returns it, and whether it is NDJSON (a JSON text on each line), if the operation takes
    that. Raises Problem (408, 413, 415), or ClientDisconnect.
    """
    _check_coding(head)
    is_ndjson = head.content_type != _JSON and _media_type(head) in NDJSON
    return await _read(receive, head.content_length, limit_bytes), is_ndjson


async def _read(receive: Receive, declared_bytes: int, limit_bytes: int) -> bytes:
    if declared_bytes > limit_bytes:  # with Expect: 100-continue, the client need not even begin
        raise too_large(limit_bytes)
    message = _already_here(receive)
    if message is not None and message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            raise too_large(limit_bytes)
        return body
    try:
        async with asyncio.timeout(_DEADLINE_S):
            return await _read_rest(message or await receive(), receive, limit_bytes)
    except TimeoutError:
        closures.note(Closed.BODY_DEADLINE)
        raise too_slow("body", _DEADLINE_S) from None


def _already_here(receive: Receive) -> Message | None:
    """The message that `receive` can give without waiting; or None, and then nothing was taken.

    A deadline around every body would cost 7 µs an order (measured), a twentieth of all that ingest_api does.
    """
    receiving = receive().__await__()
    try:
        next(receiving)
    except StopIteration as ended:
        message: Message = ended.value
        return message
    finally:
        receiving.close()
    return None


class _UnfinishedBody:
    """A body that comes in pieces, counted against what all such bodies may hold."""

    all_bytes: ClassVar[int] = 0

    def __init__(self) -> None:
        self.content = bytearray()

    def add(self, piece: bytes) -> None:
        self.content += piece
        _UnfinishedBody.all_bytes += len(piece)

    def drop(self) -> None:
        _UnfinishedBody.all_bytes -= len(self.content)
        self.content.clear()

    def refusal(self, limit_bytes: int, *, is_complete: bool) -> Problem | None:
        if len(self.content) > limit_bytes:
            return too_large(limit_bytes)
        return too_many_bodies() if self.all_bytes > _MAX_UNFINISHED_BYTES and not is_complete else None


async def _read_rest(message: Message, receive: Receive, limit_bytes: int) -> bytes:
    body = _UnfinishedBody()
    try:
        while True:
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body.add(message.pop("body", b""))  # popped, or it would be held twice while the next one is awaited
            is_complete = not message.get("more_body")
            if (refusal := body.refusal(limit_bytes, is_complete=is_complete)) is not None:
                raise refusal
            if is_complete:
                return bytes(body.content)
            message = await receive()
    finally:
        body.drop()


def _check_coding(head: Head) -> None:
    """Raises Problem (415) for a compressed body: nothing here would decompress it."""
    for coding in head.content_encodings:
        if coding.strip().lower() not in (b"", b"identity"):
            raise coded_body(coding.decode("latin-1"))


def _media_type(head: Head) -> str:
    """The media type without parameters. Raises Problem (415) unless the operation's row of its table has it."""
    media_type = head.content_type.partition(b";")[0].strip().lower().decode("latin-1")
    assert head.operation is not None
    takes = head.operation.media_types
    if media_type not in takes:
        raise not_json(head.content_type.decode("latin-1"), takes, is_patch=head.operation.method == "PATCH")
    return media_type
