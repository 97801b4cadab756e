"""What is not HTTP behind a request: the request gets its own answer, and what follows is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.support.clients.echo import make_echo, request
from tests.support.clients.raw_http import RawClient, check_refused
from tests.support.services.processes import running
from tests.support.time.conditions import eventually
from web.serving import connections


@pytest.fixture
async def app() -> Starlette:
    return make_echo()


@pytest.fixture
async def url(app: Starlette) -> AsyncIterator[str]:
    async with running(app, ready="/echo") as url:
        yield url


# ── nonsense behind a request


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n"
BROKEN_BODY = b"POST /held HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"


NONSENSE = {
    "no HTTP": (b"nonsense\r\n\r\n", 400, "malformed"),
    "two lengths": (request(b"x", b"Content-Length: 1"), 400, "malformed"),
    "a host that is none": (b"GET /held HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "malformed"),
    "a body that is broken": (BROKEN_BODY, 400, "malformed"),
    "a head without bounds": (b"GET /held HTTP/1.1\r\nX: " + b"x" * 2 * 1024**2, 431, "head-too-large"),
}


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize(("nonsense", "status", "name"), NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in pieces"])
async def test_nonsense_behind_requests_in_hand_is_refused_after_their_own_answers(
    app: Starlette,
    url: str,
    caplog: pytest.LogCaptureFixture,
    before: int,
    nonsense: bytes,
    status: int,
    name: str,
    at_once: bool,
) -> None:
    """A client reads answers in order, so it must not take the refusal for the answer to an executed request."""
    client = await RawClient.connect(url)
    client.send(HELD * before + (nonsense if at_once else b""))
    await eventually(lambda: app.state.held)
    client.send(b"" if at_once else nonsense)
    client.send(b"and more of it")
    assert not await client.hears(0.2), "nothing is said before the first has its answer"
    app.state.release.set()
    for _ in range(before):
        assert (await client.answer())[0] == 200
    check_refused(await client.answer(), status, name)
    assert await client.is_closed()
    assert app.state.held == ["GET"] * before, "and what is behind is not begun"
    assert caplog.records == []


async def test_nonsense_in_a_body_that_is_awaited_is_refused_at_once_and_the_request_is_not_carried_out(
    app: Starlette, url: str
) -> None:
    client = await RawClient.connect(url)
    client.send(HELD.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    client.send(b"zz\r\n")
    check_refused(await client.answer(), 400, "malformed")
    assert await client.is_closed()
    assert app.state.held == []


async def test_nonsense_behind_an_answer_is_refused(url: str) -> None:
    client = await RawClient.connect(url)
    client.send(request(b"one"))
    assert (await client.answer())[2] == b"one"
    client.send(b"nonsense\r\n\r\n" + request(b"smuggled"))
    check_refused(await client.answer(), 400, "malformed")
    assert await client.is_closed()


async def test_half_a_head_behind_a_request_in_hand_is_too_slow_after_its_answer(
    app: Starlette, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_DEADLINE_S", 0.1)
    client = await RawClient.connect(url)
    client.send(HELD + b"GET /echo HT")
    await eventually(lambda: app.state.held)
    assert not await client.hears(0.3)
    app.state.release.set()
    assert (await client.answer())[0] == 200
    check_refused(await client.answer(), 408, "too-slow")
    assert await client.is_closed()


async def test_an_answer_that_closes_is_the_last_word_whatever_is_behind(app: Starlette, url: str) -> None:
    async def last(_: Request) -> Response:
        app.state.held.append("last")
        await app.state.release.wait()
        return Response(headers={"Connection": "close"})

    app.router.routes.append(Route("/last", last))
    client = await RawClient.connect(url)
    client.send(HELD.replace(b"/held", b"/last") + b"nonsense\r\n\r\n")
    await eventually(lambda: app.state.held)
    app.state.release.set()
    assert (await client.answer())[0] == 200
    assert await client.is_closed()


async def test_nonsense_in_a_body_whose_answer_has_begun_puts_no_other_answer_into_it(app: Starlette, url: str) -> None:
    async def begins(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        app.state.held.append("left")

    app.mount("/begins", begins)
    client = await RawClient.connect(url)
    client.send(CHUNKED.replace(b"/echo", b"/begins/") + b"1\r\nx\r\n")
    assert await client.hears(5)
    client.send(b"zz\r\n")
    with pytest.raises(asyncio.IncompleteReadError) as cut:
        await client.answer()
    assert cut.value.partial == b"part"
    await eventually(lambda: app.state.held == ["left"])


async def test_what_follows_nonsense_is_not_held_while_the_answer_before_it_is_awaited(
    app: Starlette, url: str
) -> None:
    """The bytes are dropped, and past a bound they are not even read."""
    client = await RawClient.connect(url)
    client.send(HELD + b"nonsense\r\n\r\n")
    await eventually(lambda: app.state.held)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await client.send_all(b"x" * 64 * 1024**2)
    app.state.release.set()
    assert (await client.answer())[0] == 200
    check_refused(await client.answer(), 400, "malformed")
    client.close()
