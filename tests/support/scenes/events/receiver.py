"""A receiver of webhooks on a real socket, written by hand so that it can misbehave as no HTTP library would."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Received:
    """One request."""

    target: str
    headers: dict[str, str]
    """By name, in lower case."""
    body: bytes
    connection: int
    """Which of the receiver's connections it came by: 1, 2, ..."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those in the body, whether it is one or an array."""
        decoded = json.loads(self.body)
        return decoded if isinstance(decoded, list) else [decoded]


Behave = Callable[[Received, asyncio.StreamWriter], Awaitable[bool]]
"""Answers a request. Returns whether the connection stays open."""


def saying(raw: bytes, *, hang_up: bool = False) -> Behave:
    """Answer every request with these bytes."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> bool:
        writer.write(raw)
        await writer.drain()
        return not hang_up

    return behave


@dataclass
class Receiver:
    """What it has received, and what it does with the next request."""

    url: str = ""
    behave: Behave = field(default_factory=lambda: saying(OK))
    """A request that comes while this is changed gets the one or the other."""
    requests: list[Received] = field(default_factory=list)
    at_once: int = 0
    """Requests that are being answered."""
    most_at_once: int = 0
    sent_bytes: int = 0
    """What it has written to the sockets, by `flood`."""
    connections: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of all requests, in the order of their arrival."""
        return [event for request in self.requests for event in request.events]

    @property
    def event_ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    def has_events(self, count: int) -> bool:
        return len(self.events) == count

    def has_requests(self, count: int) -> bool:
        return len(self.requests) == count

    def has_more_requests(self, count: int) -> bool:
        return len(self.requests) > count

    def flood(self, length: int) -> Behave:
        """Answer 200 with so many bytes."""

        async def behave(request: Received, writer: asyncio.StreamWriter) -> bool:
            writer.write(b"HTTP/1.1 200 x\r\ncontent-length: %d\r\n\r\n" % length)
            for _ in range(length // 65536):
                writer.write(b"x" * 65536)
                await writer.drain()
                self.sent_bytes += 65536
            return True

        return behave

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._open.add(writer)
        try:
            while (request := await _read(reader, number)) is not None:
                self.requests.append(request)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    if not await self.behave(request, writer):
                        return
                finally:
                    self.at_once -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort() if writer.is_closing() else writer.close()

    def hang_up(self) -> None:
        """Reset all connections."""
        for writer in list(self._open):
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader, connection: int) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(first.split(" ")[1], headers, body, connection)


@asynccontextmanager
async def receiving(port: int = 0, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver on 127.0.0.1, for the length of the block."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", port, ssl=tls)
    receiver.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield receiver
    finally:
        server.close()
        receiver.hang_up()
