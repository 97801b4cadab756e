"""HTTP connections below the endpoints: upgrades, deadlines, malformed heads and bodies."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.clients.echo import make_echo, request
from tests.support.clients.raw_http import RawClient, check_refused
from tests.support.services.processes import running
from web.serving import connections


@pytest.fixture
async def app() -> Starlette:
    return make_echo()


@pytest.fixture
async def url(app: Starlette) -> AsyncIterator[str]:
    async with running(app, ready="/echo") as url:
        yield url


UPGRADES = [
    # java.net.http.HttpClient sends this with the first request on every plain connection, and so does curl --http2.
    (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB"),
    (b"Connection: upgrade", b"Upgrade: websocket"),
    (b"Upgrade: TLS/1.0", b"Connection: keep-alive, Upgrade"),
]


@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_offer_to_upgrade_is_ignored_and_the_request_carried_out(url: str, upgrade: tuple[bytes, ...]) -> None:
    """RFC 9110, section 7.8: a server may ignore the offer. It must not lose the body."""
    client = await RawClient.connect(url)
    client.send(request(b"one", *upgrade) + request(b"two", *upgrade) + request(b"three"))
    for expected in (b"one", b"two", b"three"):
        status, _, body = await client.answer()
        assert (status, body) == (200, expected)
    await client.send_slowly(request(b"four", *upgrade))
    assert (await client.answer())[2] == b"four"


async def test_a_chunked_body_comes_through_an_offer_to_upgrade(url: str) -> None:
    client = await RawClient.connect(url)
    head = (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    )
    client.send(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert (await client.answer())[2] == b"abcde"


async def test_what_is_no_http_is_a_problem_and_the_end_of_the_connection(url: str) -> None:
    client = await RawClient.connect(url)
    client.send(b"\x16\x03\x01\x02\r\n\r\n")
    check_refused(await client.answer(), 400, "malformed")
    assert await client.is_closed()


async def test_a_head_without_bounds_is_refused(url: str) -> None:
    client = await RawClient.connect(url)
    client.send(b"GET /echo HTTP/1.1\r\nX: " + b"x" * 2 * 1024**2)
    check_refused(await client.answer(), 431, "head-too-large")
    assert await client.is_closed()


async def test_many_large_requests_in_a_row_are_none(url: str) -> None:
    client = await RawClient.connect(url)
    large = [request(b"%d" % number, b"X: " + b"x" * 30_000) for number in range(30)]
    client.send(b"".join(large))
    assert [(await client.answer())[2] for _ in large] == [b"%d" % number for number in range(30)]


async def test_a_head_that_does_not_end_is_too_slow(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_DEADLINE_S", 0.1)
    client = await RawClient.connect(url)
    client.send(request(b"one"))
    assert (await client.answer())[2] == b"one"
    client.send(b"GET /echo HT")
    check_refused(await client.answer(), 408, "too-slow")
    assert await client.is_closed()


async def test_a_head_in_pieces_within_the_deadline_is_taken(url: str) -> None:
    client = await RawClient.connect(url)
    await client.send_slowly(request(b"x"))
    assert (await client.answer())[2] == b"x"


async def test_a_connection_without_a_request_is_closed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.1)
    assert await (await RawClient.connect(url)).is_closed()


# ── neither head nor body


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_trailers_are_no_headers(app: Starlette, url: str) -> None:
    async def headers(request: Request) -> Response:
        await request.body()
        return Response(" ".join(request.headers))

    app.router.routes.append(Route("/headers", headers, methods=["POST"]))
    client = await RawClient.connect(url)
    client.send(CHUNKED.replace(b"/echo", b"/headers") + b"1\r\nx\r\n")
    client.send(b"0\r\nIdempotency-Key: x\r\nHost: y\r\n\r\n")
    assert (await client.answer())[2] == b"host transfer-encoding"


@pytest.mark.parametrize(
    "begin", [b"0\r\n" + b"X: x\r\n" * 9, b"0\r\nX: ", b"1;x="], ids=["trailers", "one", "extension"]
)
async def test_trailers_and_extensions_without_end_are_refused(url: str, begin: bytes) -> None:
    client = await RawClient.connect(url)
    await client.send_all(CHUNKED + b"1\r\nx\r\n" + begin)
    for _ in range(256):
        await client.send_all(begin[-6:] * 1024)
    check_refused(await client.answer(), 431, "head-too-large")
    assert await client.is_closed()


async def test_what_is_left_of_a_body_after_its_answer_is_read_for_a_while_and_no_longer(url: str) -> None:
    """415 and others are answered before the body has arrived. Reading the rest is cheaper than a new connection."""
    client = await RawClient.connect(url)
    client.send(
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000 + request(b"two")
    )
    assert (await client.answer())[0] == 200
    assert (await client.answer())[2] == b"two"
    client.send(b"DELETE /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
    assert (await client.answer())[0] == 405
    for _ in range(100):
        client.send(b"x" * 10_000)
    assert await client.is_closed()


@pytest.mark.parametrize("before", [b"", request(b"x")], ids=["at first", "after a request"])
async def test_an_empty_line_and_then_silence_is_silence(
    url: str, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn's only deadline ends at the first byte."""
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.1)
    client = await RawClient.connect(url)
    if before:
        client.send(before)
        assert (await client.answer())[0] == 200
    client.send(b"\r\n")
    assert await client.is_closed()


async def test_so_is_a_body_that_stops_after_its_answer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.1)
    client = await RawClient.connect(url)
    client.send(b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
    assert (await client.answer())[0] == 404
    client.send(b"x")
    assert await client.is_closed()


# ── an answer to who is still sending


async def test_an_answer_that_closes_arrives_although_the_client_is_still_sending(app: Starlette, url: str) -> None:
    async def refusing(request: Request) -> Response:
        return Response(b"enough", 413, {"Connection": "close"})

    app.router.routes.append(Route("/refusing", refusing, methods=["POST"]))
    client = await RawClient.connect(url)
    client.send(b"POST /refusing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(100):
        await client.send_all(b"x" * 100_000)
    status, _, body = await client.answer()
    assert (status, body) == (413, b"enough")
    assert await client.is_closed()


# ── which HTTP


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"GET /echo HTTP/2.0\r\nHost: localhost", "This is HTTP/2.0. Send HTTP/1.1."),
        (b"PRI * HTTP/2.0\r\n\r\nSM", "This is HTTP/2.0. Send HTTP/1.1."),
        (b"GET /echo HTTP/0.9\r\nHost: localhost", "This is HTTP/0.9. Send HTTP/1.1."),
        (b"GET /echo HTTP/1.1", "The request has 0 Host headers. Send one."),
        (b"GET /echo HTTP/1.1\r\nHost: localhost\r\nHost: x", "The request has 2 Host headers. Send one."),
        (b"GET /echo HTTP/1.0\r\nHost: localhost\r\nHost: y", "The request has 2 Host headers. Send one."),
        (
            b"CONNECT x:1 HTTP/1.1\r\nHost: localhost",
            "The target of the request is none that is served here. Send a path",
        ),
    ],
)
async def test_another_http_is_refused_and_told_what_to_send(
    url: str, head: bytes, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await RawClient.connect(url)
    client.send(head + b"\r\n\r\n" + request(b"smuggled"))
    answer = await client.answer()
    check_refused(answer, 400, "malformed")
    assert msgspec.json.decode(answer[2])["detail"].startswith(detail)
    assert await client.is_closed()
    assert caplog.records == []


async def test_http_1_0_needs_no_host(url: str) -> None:
    client = await RawClient.connect(url)
    client.send(b"GET /echo HTTP/1.0\r\n\r\n")
    assert (await client.answer())[0] == 200
    assert await client.is_closed()
