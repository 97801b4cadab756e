"""More connections than the limit: surplus ones get 503, and a flood is closed without an answer."""

import asyncio
import resource
from collections.abc import Coroutine, Iterator, MutableMapping
from typing import Any

import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from pipeline.process import metrics
from pipeline.process.lifecycle import Misconfigured
from tests.support.clients.connections import HALF_A_HEAD, in_hand, sent_a_part, served, status_or_end
from tests.support.clients.echo import make_echo, request
from tests.support.clients.raw_http import RawClient, check_refused
from tests.support.services.processes import running
from tests.support.time.conditions import eventually
from web.serving import closures as closures_of_process
from web.serving import connection_limits, connections
from web.serving.closures import Closed, Closures


@pytest.fixture
async def app() -> Starlette:
    return make_echo()


async def test_past_the_limit_a_connection_is_told_so_and_closed_and_the_others_live_on(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=3) as url:
        clients = [await in_hand(app, url) for _ in range(3)]
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
            # Together: one after the other, the first would be too slow before the last is there.
            clients = [it for n in (50, 10) for it in await asyncio.gather(*_half_heads(url, n))]
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


def _half_heads(url: str, count: int) -> Iterator[Coroutine[Any, Any, RawClient]]:
    return (sent_a_part(url, HALF_A_HEAD) for _ in range(count))


def _told(logs: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [it for it in logs if it["event"] == "closed connections of slow or surplus clients"]


def _closed(why: str) -> float:
    return metrics.REGISTRY.get_sample_value("headrace_connections_closed_total", {"reason": why}) or 0.0


def _connections(state: str) -> float:
    return metrics.REGISTRY.get_sample_value("headrace_connections", {"state": state}) or 0.0


async def test_room_that_was_left_is_taken_again(app: Starlette) -> None:
    async with running(app, ready="/echo", max_connections=1) as url:
        for _ in range(3):
            (await served(url)).close()


async def test_a_flood_past_the_limit_is_closed_and_not_held(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "REFUSED_AT_ONCE", 2)
    async with running(app, ready="/echo", max_connections=1) as url:
        served = await in_hand(app, url)
        flood = [await RawClient.connect(url) for _ in range(10)]
        answers = [await status_or_end(client) for client in flood]
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
