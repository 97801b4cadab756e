"""More connections than a server takes: who makes room, who is told to come again, and who is not even told."""

import asyncio
import resource

import pytest
from starlette.applications import Starlette

from pipeline.lifecycle import Misconfigured
from tests.conditions import eventually
from tests.echo import make_echo, request
from tests.processes import running
from tests.raw_http import RawClient, check_refused
from web import connection_limits


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


async def test_many_at_once_find_room_one_by_one(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=10) as url:
        for _ in range(5):
            clients = await asyncio.gather(*(RawClient.connect(url) for _ in range(10)))
            answers = await asyncio.gather(*map(_status_or_end, clients))
            assert answers == [200] * 10


async def _busy(app: Starlette, url: str) -> RawClient:
    """A connection with a request in hand, as soon as there is room for it."""
    client, before = await _first(url), len(app.state.held)
    client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
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
