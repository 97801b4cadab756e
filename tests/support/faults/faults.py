"""Faults between a client and its server: a TCP proxy that cuts, delays, and forges answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pamqp.frame
from pamqp.base import Frame

from tests.support.time.conditions import eventually


class Proxy:
    """A TCP proxy in front of one server. The client's bytes pass, except into a black hole; only answers break."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._clients: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._serving: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.port = 0
        self.refuses = False
        """Whether new connections are closed at once."""
        self.swallows = False
        """Whether the bytes of both sides are dropped, on new connections too."""
        self.sent_bytes = 0
        """Bytes that the server sent on the newest connection."""
        self.cut_after_bytes: int | None = None
        """Break each connection after this many bytes from the server."""
        self.last_words = b""
        """Sent to the client just before such a break, in the same segment."""

    def url(self, server_url: str) -> str:
        """`server_url` through this proxy."""
        parts = urlsplit(server_url)
        credentials = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}").geturl()

    def hold(self) -> None:
        """Hold back the server's answers from now on: a confirm that is late, or never comes."""
        self._open.clear()

    def release(self) -> None:
        """Deliver what was held back, and all later answers."""
        self._open.set()

    def forget(self) -> None:
        """Send nothing more on existing connections, like a dead server. New connections work."""
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    def swallow(self) -> None:
        """Drop the bytes of both sides without telling either. `come_back` resets connections that lost bytes."""
        self.swallows = True

    def cut(self) -> None:
        """Reset all connections, and drop held answers."""
        for client in self._clients:
            client.transport.abort()

    def go_away(self) -> None:
        """Reset all connections, and refuse new ones."""
        self.refuses = True
        self.cut()

    def come_back(self) -> None:
        """End `go_away`, `hold` or `swallow`."""
        if self.swallows:
            self.cut()
        self.refuses = self.swallows = False
        self.release()

    def lead_to(self, server_url: str) -> None:
        """Reset all connections, and connect new ones to another server, as a failover address does."""
        parts = urlsplit(server_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self.cut()

    def say(self, frame: Frame, channel: int = 0) -> None:
        """Send all clients a frame, as if from the broker."""
        for client in self._clients:
            client.write(pamqp.frame.marshal(frame, channel))

    async def close(self) -> None:
        """Refuse new connections, reset all, and wait until none is left."""
        self.release()
        self.go_away()
        if self._serving:
            await asyncio.wait(self._serving)

    def accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Handle a new client connection."""
        self.connections += 1
        serving = asyncio.create_task(self._serve(reader, client))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.refuses:
            client.transport.abort()
            return
        self.sent_bytes = 0
        self._clients.add(client)
        server_reader, server = await asyncio.open_connection(self._host, self._port)
        pumps = [
            asyncio.create_task(self._ask(client_reader, server)),
            asyncio.create_task(self._answer(server_reader, client)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.discard(client)
            for pump in pumps:
                pump.cancel()
            client.transport.abort()
            server.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _ask(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while asked := await reader.read(65536):
            if self.swallows:
                continue
            server.write(asked)
            await server.drain()

    async def _answer(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        is_open = self._open
        while answer := await reader.read(65536):
            await is_open.wait()
            if self.swallows:
                continue
            before = self.sent_bytes
            self.sent_bytes += len(answer)
            if self.cut_after_bytes is not None and self.sent_bytes >= self.cut_after_bytes:
                client.write(answer[: self.cut_after_bytes - before] + self.last_words)
                await client.drain()
                client.write_eof()
                return
            client.write(answer)
            await client.drain()


async def cut_until_reconnected(proxy: Proxy) -> None:
    """Reset all connections, and wait until a client has reconnected."""
    before = proxy.connections
    proxy.cut()
    await eventually(lambda: proxy.connections > before)


@asynccontextmanager
async def proxy_to(server_url: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a server for the block."""
    parts = urlsplit(server_url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = Proxy(parts.hostname, parts.port)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()
