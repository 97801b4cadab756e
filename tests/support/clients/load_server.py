"""A server whose answers the test writes byte by byte, for the load generator."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

from proof.load_result import Request

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]
"""Answers the n-th request of a connection, counted from 0."""
ID = "01940000-0000-8000-8000-000000000000"


class Server:
    """Counts what it is asked; `answer` decides what it says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections = 0
        self.bodies: list[bytes] = []
        self.url = ""
        self.close: Callable[[], None] = lambda: None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for number in itertools.count():
                self.bodies.append(await read_body(reader))
                await self.answer(number, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def read_body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.split(b":")[1]))


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.close = listener.close
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def response(status: int = 202, body: bytes = b'{"id":"%s"}' % ID.encode(), headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def saying(*answers: bytes) -> Answer:
    """Answers of one connection, in turn; the last one for ever."""

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[min(number, len(answers) - 1)])

    return answer


def orders(url: str, count: int) -> Iterator[Request[int]]:
    return (Request.post(f"{url}/orders", b'{"n":%d}' % number, number) for number in range(count))
