"""Past the limit of connections, idle and unfinished ones make room for others (P3, P8)."""

import asyncio

import pytest
from starlette.applications import Starlette

from tests.support.clients.connections import HALF_A_BODY, HALF_A_HEAD, in_hand, sent_a_part, served, status_or_end
from tests.support.clients.echo import make_echo, request
from tests.support.clients.raw_http import RawClient, check_refused
from tests.support.services.processes import running
from tests.support.time.conditions import eventually


@pytest.fixture
async def app() -> Starlette:
    return make_echo()


async def test_a_request_with_nonsense_behind_it_is_in_hand_and_makes_no_room(app: Starlette) -> None:
    """Whichever piece the nonsense came in. The request was carried out, so its own answer must come first."""
    held = b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with running(app, ready="/echo", max_connections=1) as url:
        client = await RawClient.connect(url)
        await client.send_all(held[:9])
        assert not await client.hears(0.1)
        client.send(held[9:] + b"nonsense\r\n\r\n")
        await eventually(lambda: app.state.held)
        surplus = await RawClient.connect(url)
        surplus.send(request(b"x"))
        check_refused(await surplus.answer(), 503, "overloaded")
        app.state.release.set()
        assert (await client.answer())[0] == 200
        check_refused(await client.answer(), 400, "malformed")
        assert await client.is_closed()


async def test_who_has_been_idle_for_longest_makes_room(app: Starlette) -> None:
    """Whether or not the idle connection has sent a request before. No client is refused."""
    async with running(app, ready="/echo", max_connections=4) as url:
        busy = await in_hand(app, url)
        silent = await RawClient.connect(url)
        first, second = await served(url), await served(url)
        third = await RawClient.connect(url)
        assert await silent.is_closed()
        first.send(request(b"again"))
        assert (await first.answer())[0] == 200
        fourth = await RawClient.connect(url)
        assert await second.is_closed()
        app.state.release.set()
        assert (await busy.answer())[0] == 200
        for client in (first, third, fourth, busy):
            client.send(request(b"again"))
            assert (await client.answer())[0] == 200


@pytest.mark.parametrize("half", [HALF_A_HEAD, HALF_A_BODY, b"\r\n", b"G"])
async def test_p8_the_oldest_incomplete_request_makes_room_and_is_told_so(app: Starlette, half: bytes) -> None:
    async with running(app, ready="/echo", max_connections=3) as url:
        busy = await in_hand(app, url)
        first, second = await sent_a_part(url, half), await sent_a_part(url, half)
        for byte in b"xy" if half is HALF_A_BODY else b"":  # a client that goes on sending keeps its place
            first.send(bytes([byte]))
        honest = await served(url)
        if half in (HALF_A_HEAD, HALF_A_BODY, b"G"):
            check_refused(await first.answer(), 503, "overloaded")
        assert await first.is_closed()
        third = await served(url)
        assert await second.is_closed() or half
        app.state.release.set()
        assert (await busy.answer())[0] == 200
        for client in (busy, honest, third):
            client.send(request(b"again"))
            assert (await client.answer())[0] == 200


async def test_p8_a_request_that_waits_for_its_answer_makes_room_for_nobody(app: Starlette) -> None:
    """Nor does the client lose its place by beginning the next request."""
    async with running(app, ready="/echo", max_connections=2) as url:
        both = [await in_hand(app, url) for _ in range(2)]
        both[0].send(HALF_A_HEAD)
        await asyncio.sleep(0.05)
        surplus = await RawClient.connect(url)
        surplus.send(request(b"x"))
        check_refused(await surplus.answer(), 503, "overloaded")
        app.state.release.set()
        assert [(await client.answer())[0] for client in both] == [200, 200]
        assert await served(url)


_CHUNKED = b"POST /held HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
_SIZED = b"POST /held HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize(
    ("first_part", "rest"),
    [
        (_SIZED + b"ab", b"cd"),
        (_SIZED[:22], _SIZED[22:] + b"abcd"),
        (_CHUNKED + b"2\r\nab\r\n", b"0\r\n\r\n"),
        (_CHUNKED + b"2\r\nab\r\n0\r\nX-Sum", b": 1\r\n\r\n"),
    ],
    ids=["body", "head", "chunks", "trailers"],
)
@pytest.mark.parametrize(
    "begun",
    [b"G", HALF_A_HEAD, HALF_A_BODY, request(b"x") + HALF_A_HEAD, request(b"x") + HALF_A_BODY],
    ids=["letter", "half_head", "half_body", "one_and_half_head", "one_and_half_body"],
)
async def test_p3_a_request_in_hand_is_not_refused_because_its_last_piece_begins_the_next_one(
    app: Starlette, first_part: bytes, rest: bytes, begun: bytes
) -> None:
    """Otherwise the order would be accepted, and its client told to send it again."""
    async with running(app, ready="/echo", max_connections=1) as url:
        client = await served(url)
        client.send(first_part)
        await asyncio.sleep(0.02)
        client.send(rest + begun)
        await eventually(lambda: app.state.held)
        await asyncio.sleep(0.02)
        surplus = await RawClient.connect(url)
        surplus.send(request(b"x"))
        check_refused(await surplus.answer(), 503, "overloaded")
        app.state.release.set()
        assert (await client.answer())[0] == 200
        client.close()


async def test_many_at_once_find_room_one_by_one(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=10) as url:
        for _ in range(5):
            clients = await asyncio.gather(*(RawClient.connect(url) for _ in range(10)))
            answers = await asyncio.gather(*map(status_or_end, clients))
            assert answers == [200] * 10
