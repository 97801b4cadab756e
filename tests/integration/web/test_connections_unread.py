"""Clients that do not read their answers: they make room at once, and a stop does not wait for them (P8)."""

import asyncio
import socket
import time
from functools import partial
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette

from tests.support.clients.connections import HALF_A_BODY, HALF_A_HEAD
from tests.support.clients.echo import make_echo, request
from tests.support.clients.raw_http import RawClient
from tests.support.services.processes import running
from tests.support.time.conditions import eventually
from web.problems import problems
from web.serving import flow
from web.serving.connections import Connection


@pytest.fixture
async def app() -> Starlette:
    return make_echo()


@pytest.mark.parametrize("half", [HALF_A_HEAD, HALF_A_BODY], ids=["half_head", "half_body"])
async def test_p8_who_makes_room_and_does_not_read_is_gone_at_once(
    app: Starlette, made: list[Connection], half: bytes
) -> None:
    """Otherwise its unread answer would keep the place and the file descriptor for ever."""
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
    """The kernel's buffer held all earlier answers. Only the refusal does not fit any more."""
    monkeypatch.setattr(problems, "too_many_connections", lambda _: problems.malformed("x" * 2**23))
    async with running(app, ready="/echo", max_connections=1) as url:
        with await _silent(url) as silent:
            silent.sendall(HALF_A_HEAD)
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
    """A client with a tiny receive buffer."""
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
