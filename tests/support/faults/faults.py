"""Faults between a client and its server: a TCP proxy that cuts, holds back, and says what nobody said."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pamqp.frame
from pamqp.base import Frame

from tests.support.time.conditions import eventually


class Proxy:
    """Between a client and one server. Bytes from the client pass, but into a black hole; what the server answers is
    what breaks.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._clients: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._serving: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.port = 0
        self.refuses = False
        """Whether new connections are closed as soon as they are made."""
        self.swallows = False
        """Whether what both sides say goes nowhere, on new connections too."""
        self.sent_bytes = 0
        """How much the server has said on the newest connection."""
        self.cut_after_bytes: int | None = None
        """Break every connection once the server has said that much on it."""
        self.last_words = b""
        """What the client gets before such a break, in the same segment."""

    def url(self, server_url: str) -> str:
        """`server_url` by way of this proxy."""
        parts = urlsplit(server_url)
        credentials = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}").geturl()

    def hold(self) -> None:
        """Keep back what the server says from now on: a confirm that is late, or never comes."""
        self._open.clear()

    def release(self) -> None:
        """Let it through, and what comes next."""
        self._open.set()

    def forget(self) -> None:
        """Never again say anything on the connections that there are, as a server that is gone. New ones are well."""
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    def swallow(self) -> None:
        """Be a black hole: nobody hears anything of the other any more, and nobody is told. `come_back` resets what
        has lost bytes.
        """
        self.swallows = True

    def cut(self) -> None:
        """Reset all connections, with what is held back."""
        for client in self._clients:
            client.transport.abort()

    def go_away(self) -> None:
        """Reset all connections and take no new ones."""
        self.refuses = True
        self.cut()

    def come_back(self) -> None:
        """After `go_away`, `hold` or `swallow`: all as it should be."""
        if self.swallows:
            self.cut()
        self.refuses = self.swallows = False
        self.release()

    def lead_to(self, server_url: str) -> None:
        """Reset all connections; new ones are to another server, as behind an address that a failover moves."""
        parts = urlsplit(server_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self.cut()

    def say(self, frame: Frame, channel: int = 0) -> None:
        """Tell all clients something, as if the broker had said it."""
        for client in self._clients:
            client.write(pamqp.frame.marshal(frame, channel))

    async def close(self) -> None:
        """Refuse, reset, and wait until nothing of it is left."""
        self.release()
        self.go_away()
        if self._serving:
            await asyncio.wait(self._serving)

    def accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """A new client."""
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
    """Reset all connections, and wait until one of the clients is back."""
    before = proxy.connections
    proxy.cut()
    await eventually(lambda: proxy.connections > before)


@asynccontextmanager
async def proxy_to(server_url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of a server, until the block ends."""
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
