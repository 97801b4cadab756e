"""Clients that send requests and never read the answers: ingest_api over raw sockets."""

import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.support.clients.hostile import MIB, head, memory_of, order_of
from tests.support.clients.raw_http import RawClient
from tests.support.services.ingest import Ingest
from tests.support.services.processes import running
from tests.support.time.conditions import eventually
from web.serving import flow, server

pytestmark = pytest.mark.asyncio(loop_scope="package")

LARGE = b"x" * 16 * MIB  # more than the kernel buffers, with any settings
BUNDLE = head(b"Accept-Encoding: gzip", line=b"GET /docs/swagger-ui-bundle.js HTTP/1.1")
LIVEZ = head(line=b"GET /livez HTTP/1.1")


class NonReadingClient:
    """A client that sends and never reads."""

    def __init__(self, url: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        self._socket.setblocking(False)

    def send(self, content: bytes) -> bool:
        """Whether the server took any of it."""
        try:
            return self._socket.send(content) > 0
        except BlockingIOError:
            return False

    def is_cut_off(self) -> bool:
        """A reset is seen without reading. An orderly end would come only after all unread bytes."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def non_reading_clients(url: str, number: int, content: bytes) -> Iterator[list[NonReadingClient]]:
    clients = [NonReadingClient(url) for _ in range(number)]
    try:
        for client in clients:
            client.send(content)
        yield clients
    finally:
        for client in clients:
            client.close()


# ── in this process, with deadlines that a test can wait for


async def _large(_: object) -> Response:
    return Response(LARGE)


async def _small(_: object) -> Response:
    return Response()


APP = Starlette(routes=[Route("/large", _large), Route("/small", _small)])


@pytest_asyncio.fixture(loop_scope="package")
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(flow, "READ_DEADLINE_S", 0.3)
    async with running(APP, ready="/small") as it:
        yield it


@pytest.mark.parametrize(
    "asked",
    [head(line=b"GET /large HTTP/1.1"), head(line=b"GET /large HTTP/1.1") * 9, b"GET /large HTTP/1.0\r\n\r\n"],
    ids=["one answer", "many answers", "an answer that closes"],
)
async def test_an_answer_that_is_not_read_is_given_up(url: str, asked: bytes) -> None:
    with non_reading_clients(url, 10, asked) as clients:
        await eventually(lambda: all(client.is_cut_off() for client in clients))
        honest = await RawClient.connect(url)
        honest.send(head(line=b"GET /large HTTP/1.1"))
        assert (await honest.answer())[2] == LARGE
        honest.close()


async def test_what_is_unread_when_the_silence_ends_is_given_up_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below uvicorn's mark of 64 KiB, writing is not paused, and closing waits until the client has read everything."""
    monkeypatch.setattr(flow, "READ_DEADLINE_S", 1000)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.3)
    async with running(APP, ready="/small") as url:
        with non_reading_clients(url, 1, head(line=b"GET /large HTTP/1.1")) as (client,):
            await eventually(client.is_cut_off)


# ── a process of its own


async def test_who_reads_nothing_is_gone_in_time_and_costs_little_until_then(ingest: Ingest, product: str) -> None:
    with memory_of(ingest.service) as grown_bytes, non_reading_clients(ingest.service.url, 200, BUNDLE * 20) as it:
        honest = await RawClient.connect(ingest.service.url)
        honest.send(order_of(product))
        assert (await honest.answer())[0] == 202
        honest.close()
        await eventually(lambda: all(client.is_cut_off() for client in it), 2 * flow.READ_DEADLINE_S + 10)
    assert grown_bytes() < 32 * MIB


async def test_requests_without_end_wait_where_they_are(ingest: Ingest, product: str) -> None:
    """As many requests as the sockets take. Their answers are eighty times as large."""
    with memory_of(ingest.service) as grown_bytes, non_reading_clients(ingest.service.url, 20, b"") as clients:
        flood = LIVEZ * 10_000
        await eventually(lambda: sum(client.send(flood) for client in clients) == 0)
        honest = await RawClient.connect(ingest.service.url)
        honest.send(order_of(product))
        assert (await honest.answer())[0] == 202
        honest.close()
    assert grown_bytes() < 32 * MIB
