"""A connection with no idea of HTTP but what the test says."""

import asyncio
from urllib.parse import urlsplit

import msgspec

PROBLEM = "application/problem+json"

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, url: str) -> "RawClient":
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    @property
    def is_ended(self) -> bool:
        """Whether the other side has closed the connection, and all that it sent is read."""
        return self._reader.at_eof() or self._reader.exception() is not None

    def send(self, content: bytes) -> None:
        self._writer.write(content)

    async def send_all(self, content: bytes) -> None:
        """Wait until it is on its way. Raises ConnectionError if the other side has gone."""
        self._writer.write(content)
        await self._writer.drain()

    async def send_slowly(self, content: bytes) -> None:
        """In as many packets as the server will have it."""
        for number in range(len(content)):
            await self.send_all(content[number : number + 1])
            await asyncio.sleep(0)

    async def answer(self) -> Answer:
        """The next one."""
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()[:-1]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    async def hears(self, within_s: float) -> bool:
        """Whether anything was said, or the connection ended, by then. Nothing is lost of it."""
        try:
            async with asyncio.timeout(within_s):
                await self._reader._wait_for_data("hears")  # type: ignore[attr-defined]
        except TimeoutError:
            return False
        return True

    async def is_closed(self) -> bool:
        """Wait for the end: whether nothing more was said."""
        async with asyncio.timeout(5):
            return await self._reader.read() == b""

    def close(self) -> None:
        self._writer.transport.abort()


def check_refused(answer: Answer, status: int, name: str) -> None:
    """A problem that ends the connection."""
    assert (answer[0], answer[1].get("content-type"), answer[1].get("connection")) == (status, PROBLEM, "close"), answer
    assert msgspec.json.decode(answer[2])["type"] == f"/docs/problems/{name}"
