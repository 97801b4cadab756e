"""What a client can do to a connection before any endpoint hears of it."""

import asyncio
import resource
from collections.abc import AsyncIterator

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.conditions import eventually
from tests.processes import running
from web import connections

PROBLEM = "application/problem+json"


async def _echo(request: Request) -> Response:
    return Response(await request.body(), headers={"X-Path": request.url.path})


async def _held(request: Request) -> Response:
    request.app.state.held.append(request.method)
    await request.app.state.release.wait()
    return Response()


@pytest.fixture
async def app() -> Starlette:
    app = Starlette(routes=[Route("/echo", _echo, methods=["GET", "POST"]), Route("/held", _held)])
    app.state.held, app.state.release = [], asyncio.Event()
    return app


@pytest.fixture
async def port(app: Starlette) -> AsyncIterator[int]:
    async with running(app, ready="/echo") as url:
        yield int(url.rpartition(":")[2])


class Client:
    """A connection, and no idea of HTTP but what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, content: bytes) -> None:
        self._writer.write(content)

    async def send_slowly(self, content: bytes) -> None:
        """In as many packets as the server will have it."""
        for number in range(len(content)):
            self._writer.write(content[number : number + 1])
            await self._writer.drain()
            await asyncio.sleep(0)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()[:-1]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return int(status.split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))

    def close(self) -> None:
        self._writer.close()

    async def is_closed(self) -> bool:
        """Wait for the end: whether nothing more was said."""
        async with asyncio.timeout(5):
            return await self._reader.read() == b""


def request(body: bytes, *headers: bytes) -> bytes:
    head = [b"POST /echo HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


UPGRADES = [
    # java.net.http.HttpClient sends this with the first request on every plain connection, and so does curl --http2.
    (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB"),
    (b"Connection: upgrade", b"Upgrade: websocket"),
    (b"Upgrade: TLS/1.0", b"Connection: keep-alive, Upgrade"),
]


@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_offer_to_upgrade_is_ignored_and_the_request_carried_out(
    port: int, upgrade: tuple[bytes, ...]
) -> None:
    """RFC 9110, section 7.8: a server may ignore it. What it may not do is lose the body."""
    client = await Client.connect(port)
    client.send(request(b"one", *upgrade) + request(b"two", *upgrade) + request(b"three"))
    for expected in (b"one", b"two", b"three"):
        status, _, body = await client.answer()
        assert (status, body) == (200, expected)
    await client.send_slowly(request(b"four", *upgrade))
    assert (await client.answer())[2] == b"four"


async def test_a_chunked_body_comes_through_an_offer_to_upgrade(port: int) -> None:
    client = await Client.connect(port)
    head = (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    )
    client.send(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert (await client.answer())[2] == b"abcde"


async def test_what_is_no_http_is_a_problem_and_the_end_of_the_connection(port: int) -> None:
    client = await Client.connect(port)
    client.send(b"\x16\x03\x01\x02\r\n\r\n")
    check_problem(await client.answer(), 400, "malformed")
    assert await client.is_closed()


async def test_nonsense_behind_a_request_in_hand_ends_the_connection_and_nothing_else(
    app: Starlette, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What was asked before it is finished, what was not begun is not begun, and nobody is told any more."""
    client = await Client.connect(port)
    client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"nonsense\r\n\r\n")
    check_problem(await client.answer(), 400, "malformed")
    await eventually(lambda: app.state.held)
    app.state.release.set()
    assert await client.is_closed()
    assert app.state.held == ["GET"]
    assert caplog.records == []


async def test_a_head_without_bounds_is_refused(port: int) -> None:
    client = await Client.connect(port)
    client.send(b"GET /echo HTTP/1.1\r\nX: " + b"x" * 2 * 1024**2)
    check_problem(await client.answer(), 431, "head-too-large")
    assert await client.is_closed()


async def test_many_large_requests_in_a_row_are_none(port: int) -> None:
    client = await Client.connect(port)
    large = [request(b"%d" % number, b"X: " + b"x" * 30_000) for number in range(30)]
    client.send(b"".join(large))
    assert [(await client.answer())[2] for _ in large] == [b"%d" % number for number in range(30)]


async def test_a_head_that_does_not_end_is_too_slow(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_DEADLINE_S", 0.1)
    client = await Client.connect(port)
    client.send(request(b"one"))
    assert (await client.answer())[2] == b"one"
    client.send(b"GET /echo HT")
    check_problem(await client.answer(), 408, "too-slow")
    assert await client.is_closed()


async def test_a_head_in_pieces_within_the_deadline_is_taken(port: int) -> None:
    client = await Client.connect(port)
    await client.send_slowly(request(b"x"))
    assert (await client.answer())[2] == b"x"


async def test_a_connection_without_a_request_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.1)
    assert await (await Client.connect(port)).is_closed()


# ── too many


async def test_past_the_limit_a_connection_is_told_so_and_closed_and_the_others_live_on(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=3) as url:
        port = int(url.rpartition(":")[2])
        clients = [await _first(port) for _ in range(3)]
        surplus = await Client.connect(port)
        surplus.send(request(b"x"))
        answer = await surplus.answer()
        check_problem(answer, 503, "overloaded")
        assert int(answer[1]["retry-after"]) > 0
        assert await surplus.is_closed()
        for client in clients:
            client.send(request(b"again"))
            assert (await client.answer())[0] == 200


async def _first(port: int) -> Client:
    """A connection that has been served, as soon as there is room for it."""

    async def served() -> Client | None:
        client = await Client.connect(port)
        client.send(request(b"x"))
        return client if (await client.answer())[0] == 200 else None

    return await eventually(served)


async def _status_or_end(client: Client) -> int | None:
    client.send(request(b"x"))
    try:
        return (await client.answer())[0]
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def test_room_that_was_left_is_taken_again(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=1) as url:
        port = int(url.rpartition(":")[2])
        for _ in range(3):
            (await _first(port)).close()


async def test_a_flood_past_the_limit_is_closed_and_not_held(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REFUSED_AT_ONCE", 2)
    async with running(app, ready="/echo", max_connections=1) as url:
        port = int(url.rpartition(":")[2])
        served = await _first(port)
        flood = [await Client.connect(port) for _ in range(10)]
        answers = [await _status_or_end(client) for client in flood]
        assert set(answers) == {503, None}
        assert answers.count(503) == 2
        served.send(request(b"again"))
        assert (await served.answer())[0] == 200


def test_more_connections_than_the_system_allows_files_are_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(RuntimeError, match="max_connections=1000 needs 1256 open files, and the system allows 1024"):
        connections.allow_open_files(1000)


def test_a_soft_limit_on_files_is_raised_to_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    connections.allow_open_files(1000)
    assert limits == [(1256, 4096)]


def check_problem(answer: tuple[int, dict[str, str], bytes], status: int, name: str) -> None:
    assert (answer[0], answer[1]["content-type"], answer[1]["connection"]) == (status, PROBLEM, "close")
    assert msgspec.json.decode(answer[2])["type"] == f"/docs/problems/{name}"
