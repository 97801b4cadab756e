"""More connections than a server takes: who makes room, who is told to come again, and who is not even told."""

import asyncio
import resource
import socket
import time
from collections.abc import MutableMapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from pipeline.process import metrics
from pipeline.process.lifecycle import Misconfigured
from tests.support.clients.echo import make_echo, request
from tests.support.clients.raw_http import RawClient, check_refused
from tests.support.services.processes import running
from tests.support.time.conditions import eventually
from web.problems import problems
from web.serving import closures as closures_of_process
from web.serving import connection_limits, connections, flow
from web.serving.closures import Closed, Closures
from web.serving.connections import Connection


@pytest.fixture
async def app() -> Starlette:
    return make_echo()


async def test_past_the_limit_a_connection_is_told_so_and_closed_and_the_others_live_on(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=3) as url:
        clients = [await _busy(app, url) for _ in range(3)]
        surplus = await RawClient.connect(url)
        surplus.send(request(b"x"))
        answer = await surplus.answer()
        check_refused(answer, 503, "overloaded")
        assert int(answer[1]["retry-after"]) > 0
        assert await surplus.is_closed()
        app.state.release.set()
        for client in clients:
            assert (await client.answer())[0] == 200
            client.send(request(b"again"))
            assert (await client.answer())[0] == 200


async def test_a_request_with_nonsense_behind_it_is_in_hand_and_makes_no_room(app: Starlette) -> None:
    """Whichever piece the nonsense came in. It was carried out, so nothing but its own answer may come first."""
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
    """Whether it has asked for something already or not; and nobody is refused for it."""
    async with running(app, ready="/echo", max_connections=4) as url:
        busy = await _busy(app, url)
        silent = await RawClient.connect(url)
        first, second = await _first(url), await _first(url)
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


_HALF_A_HEAD = b"GET /echo HTTP/1.1\r\nHo"
_HALF_A_BODY = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nxx"


@pytest.mark.parametrize("half", [_HALF_A_HEAD, _HALF_A_BODY, b"\r\n", b"G"])
async def test_p8_the_oldest_incomplete_request_makes_room_and_is_told_so(app: Starlette, half: bytes) -> None:
    async with running(app, ready="/echo", max_connections=3) as url:
        busy = await _busy(app, url)
        first, second = await _halfway(url, half), await _halfway(url, half)
        for byte in b"xy" if half is _HALF_A_BODY else b"":  # who goes on sending keeps its place in the line
            first.send(bytes([byte]))
        honest = await _first(url)
        if half in (_HALF_A_HEAD, _HALF_A_BODY, b"G"):
            check_refused(await first.answer(), 503, "overloaded")
        assert await first.is_closed()
        third = await _first(url)
        assert await second.is_closed() or half
        app.state.release.set()
        assert (await busy.answer())[0] == 200
        for client in (busy, honest, third):
            client.send(request(b"again"))
            assert (await client.answer())[0] == 200


@pytest.mark.parametrize("half", [_HALF_A_HEAD, _HALF_A_BODY], ids=["half_head", "half_body"])
async def test_p8_who_makes_room_and_does_not_read_is_gone_at_once(
    app: Starlette, made: list[Connection], half: bytes
) -> None:
    """What it has not read would keep its place and its file for ever."""
    async with running(app, ready="/echo", max_connections=1) as url:
        with await _non_reading(url, made) as silent:
            connection = made[-1]
            silent.sendall(half)
            await eventually(lambda: connection._is_unfinished)
            honest = await RawClient.connect(url)
            await eventually(lambda: connection not in connection.connections, 3)
            honest.send(request(b"x"))
            assert (await honest.answer())[0] == 200


async def test_who_does_not_read_the_refusal_that_ends_it_is_gone_in_a_moment(
    app: Starlette, made: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that it had read until then was in the kernel's buffer: the refusal is what does not fit any more."""
    monkeypatch.setattr(problems, "too_many_connections", lambda _: problems.malformed("x" * 2**23))
    async with running(app, ready="/echo", max_connections=1) as url:
        with await _silent(url) as silent:
            silent.sendall(_HALF_A_HEAD)
            await eventually(lambda: made[-1]._is_unfinished)
            connection = made[-1]
            await RawClient.connect(url)
            await eventually(lambda: connection not in connection.connections, 3)


async def test_a_server_that_stops_does_not_wait_for_clients_that_do_not_read(
    app: Starlette, made: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "READ_DEADLINE_S", 0.5)
    async with running(app, ready="/echo") as url:
        silent = await _non_reading(url, made)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    silent.close()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """The connections of a server in this process, in the order in which they came."""
    found: list[Connection] = []
    connection_made = Connection.connection_made

    def noted(self: Connection, transport: asyncio.Transport) -> None:
        found.append(self)
        connection_made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", noted)
    return found


async def _silent(url: str) -> socket.socket:
    """A client that has room for hardly anything."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    address = urlsplit(url)
    client.connect((address.hostname, address.port))
    client.setblocking(False)
    return client


async def _non_reading(url: str, made: list[Connection]) -> socket.socket:
    """A client that has been answered and has not read it all: a part is still in the process, and less than what
    makes it wait.
    """
    client, known = await _silent(url), len(made)
    connection = await eventually(lambda: made[known] if len(made) > known else None)
    while not connection.transport.get_write_buffer_size():
        former = connection.cycle
        client.sendall(request(b"x" * 20_000))
        await eventually(partial(_has_answered_since, connection, former))
        await asyncio.sleep(0.005)
    assert not connection.flow.write_paused
    return client


def _has_answered_since(connection: Connection, former: object) -> bool:
    cycle = connection.cycle
    return cycle is not None and cycle is not former and cycle.response_complete


async def test_p8_a_request_that_waits_for_its_answer_makes_room_for_nobody(app: Starlette) -> None:
    """Nor does its client lose it by beginning the next one."""
    async with running(app, ready="/echo", max_connections=2) as url:
        both = [await _busy(app, url) for _ in range(2)]
        both[0].send(_HALF_A_HEAD)
        await asyncio.sleep(0.05)
        surplus = await RawClient.connect(url)
        surplus.send(request(b"x"))
        check_refused(await surplus.answer(), 503, "overloaded")
        app.state.release.set()
        assert [(await client.answer())[0] for client in both] == [200, 200]
        assert await _first(url)


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
    [b"G", _HALF_A_HEAD, _HALF_A_BODY, request(b"x") + _HALF_A_HEAD, request(b"x") + _HALF_A_BODY],
    ids=["letter", "half_head", "half_body", "one_and_half_head", "one_and_half_body"],
)
async def test_p3_a_request_in_hand_is_not_refused_because_its_last_piece_begins_the_next_one(
    app: Starlette, first_part: bytes, rest: bytes, begun: bytes
) -> None:
    """It would be accepted, and its client told to send it again."""
    async with running(app, ready="/echo", max_connections=1) as url:
        client = await _first(url)
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


async def test_slow_and_surplus_clients_are_counted_and_told_in_one_line(
    app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closures_of_process, "_GATHER_S", 3.0)
    monkeypatch.setattr(closures_of_process, "closures", closures := Closures())
    for module in (connections, connection_limits):
        monkeypatch.setattr(module, "closures", closures)
    monkeypatch.setattr(connections, "HEAD_DEADLINE_S", 2.0)
    before = {why: _closed(why) for why in Closed}
    with capture_logs() as logs:
        async with running(app, ready="/echo", max_connections=50) as url:
            clients = [await _halfway(url, _HALF_A_HEAD) for _ in range(60)]
            assert _connections("open") >= 50
            await eventually(lambda: _connections("unfinished") == 50)
            await eventually(lambda: _connections("unfinished") == 0)
            await eventually(lambda: len(_told(logs)) == 1)
            await asyncio.sleep(0.3)
            for client in clients:
                client.close()
    (line,) = _told(logs)
    assert line["room"] >= 10
    assert {why: _closed(why) - before[why] for why in (Closed.ROOM, Closed.HEAD_DEADLINE)} == {
        Closed.ROOM: line["room"],
        Closed.HEAD_DEADLINE: 50,
    }


def _told(logs: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [it for it in logs if it["event"] == "connections closed on slow or surplus clients"]


def _closed(why: str) -> float:
    return metrics.REGISTRY.get_sample_value("headrace_connections_closed_total", {"reason": why}) or 0.0


def _connections(state: str) -> float:
    return metrics.REGISTRY.get_sample_value("headrace_connections", {"state": state}) or 0.0


async def _halfway(url: str, half: bytes) -> RawClient:
    """A connection that has sent a part of a request, as soon as the server has it."""
    client = await RawClient.connect(url)
    await client.send_all(half)
    await asyncio.sleep(0.01)
    return client


async def test_many_at_once_find_room_one_by_one(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=10) as url:
        for _ in range(5):
            clients = await asyncio.gather(*(RawClient.connect(url) for _ in range(10)))
            answers = await asyncio.gather(*map(_status_or_end, clients))
            assert answers == [200] * 10


async def _busy(app: Starlette, url: str) -> RawClient:
    """A connection with a request in hand, as soon as there is room for it."""
    client, before = await _first(url), len(app.state.held)
    client.send(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await eventually(lambda: len(app.state.held) > before)
    return client


async def _first(url: str) -> RawClient:
    """A connection that has been served, as soon as there is room for it."""

    async def served() -> RawClient | None:
        client = await RawClient.connect(url)
        client.send(request(b"x"))
        return client if (await client.answer())[0] == 200 else None

    return await eventually(served)


async def _status_or_end(client: RawClient) -> int | None:
    client.send(request(b"x"))
    try:
        return (await client.answer())[0]
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def test_room_that_was_left_is_taken_again(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=1) as url:
        for _ in range(3):
            (await _first(url)).close()


async def test_a_flood_past_the_limit_is_closed_and_not_held(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "REFUSED_AT_ONCE", 2)
    async with running(app, ready="/echo", max_connections=1) as url:
        served = await _busy(app, url)
        flood = [await RawClient.connect(url) for _ in range(10)]
        answers = [await _status_or_end(client) for client in flood]
        assert set(answers) == {503, None}
        assert answers.count(503) == 2
        app.state.release.set()
        assert (await served.answer())[0] == 200
        served.send(request(b"again"))
        assert (await served.answer())[0] == 200


def test_more_connections_than_the_system_allows_files_are_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(Misconfigured, match="max_connections=1000 needs 1256 open files, and the system allows 1024"):
        connection_limits.allow_open_files(1000)


def test_a_soft_limit_on_files_is_raised_to_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    connection_limits.allow_open_files(1000)
    assert limits == [(1256, 4096)]
