"""A raw HTTP/1.1 connection: it sends exactly the bytes that the test gives it."""

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
        """Whether the server closed the connection and everything it sent is read."""
        return self._reader.at_eof() or self._reader.exception() is not None

    def send(self, content: bytes) -> None:
        self._writer.write(content)

    async def send_all(self, content: bytes) -> None:
        """Send, and wait until the bytes have left. Raises ConnectionError if the server is gone."""
        self._writer.write(content)
        await self._writer.drain()

    async def send_slowly(self, content: bytes) -> None:
        """Send in as many packets as the server accepts."""
        for number in range(len(content)):
            await self.send_all(content[number : number + 1])
            await asyncio.sleep(0)

    async def answer(self) -> Answer:
        """Read the next answer."""
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()[:-1]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    async def hears(self, within_s: float) -> bool:
        """Whether bytes or the end arrive within this time. They stay readable."""
        try:
            async with asyncio.timeout(within_s):
                await self._reader._wait_for_data("hears")  # type: ignore[attr-defined]
        except TimeoutError:
            return False
        return True

    async def is_closed(self) -> bool:
        """Wait for the end. True if no bytes came before it."""
        async with asyncio.timeout(5):
            return await self._reader.read() == b""

    def close(self) -> None:
        self._writer.transport.abort()


def check_refused(answer: Answer, status: int, name: str) -> None:
    """Assert that the answer is this problem, and closes the connection."""
    assert (answer[0], answer[1].get("content-type"), answer[1].get("connection")) == (status, PROBLEM, "close"), answer
    assert msgspec.json.decode(answer[2])["type"] == f"/docs/problems/{name}"
