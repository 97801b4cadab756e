"""When a load ends: at the end of its requests, or because its server takes no more."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from proof import load as load_module
from proof.bodies import problem_detail
from proof.load import Unreachable, drive
from proof.load_result import NO_ANSWER, Request
from tests.support.clients.load_server import orders, response, saying, serving
from tests.support.time.conditions import eventually


async def test_a_server_that_closes_every_connection_at_once_is_unreachable_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it closes before or after a request has left: the load ends, and says what it knows."""
    monkeypatch.setattr(load_module, "PATIENCE_S", 0.1)
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    with contextlib.suppress(Unreachable):
        result = await drive(url, orders(url, 20), 2)
        assert set(result.statuses) <= {NO_ANSWER}
    listener.close()


async def test_the_first_connection_is_waited_for_as_long_as_told() -> None:
    async with serving(saying(response())) as server:
        port = int(server.url.rpartition(":")[2])
    driving = asyncio.create_task(drive(server.url, orders(server.url, 2), 1, patience_s=5))
    await asyncio.wait([driving], timeout=0.1)  # a few attempts
    listener = await asyncio.start_server(server.handle, "127.0.0.1", port)
    assert list((await driving).statuses) == [202] * 2
    listener.close()


async def test_a_server_that_takes_nothing_ends_the_load() -> None:
    body = b'{"type":"/docs/problems/overloaded","detail":"Disk full."}'
    async with serving(saying(response(503, body, "Retry-After: 0\r\n"))) as server:
        result = await drive(server.url, orders(server.url, 10**9), 4, acceptance_s=(0.2, 60))
    assert result.without_acceptance_s == 0.2
    assert problem_detail(result.last_refusal) == "Disk full."
    assert len(result) == len(server.bodies) >= 4
    assert result.kept[0] == b"overloaded"


async def test_a_server_that_takes_no_more_ends_the_load_later() -> None:
    async with serving(saying(response(), response(503, b"", "Retry-After: 0\r\n"))) as server:
        result = await drive(server.url, orders(server.url, 10**9), 1, acceptance_s=(60, 0.2))
    assert result.without_acceptance_s == 0.2
    assert result.statuses[0] == 202


async def test_each_client_has_one_attempt_before_the_load_is_ended() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        await arrived.wait()
        writer.write(response(503))

    arrived = asyncio.Event()
    async with serving(answer) as server:
        driving = asyncio.create_task(drive(server.url, orders(server.url, 100), 5, acceptance_s=(0.0, 0.0)))
        await eventually(lambda: len(server.bodies) == 5)
        arrived.set()
        assert len(await driving) == 5


async def test_sold_out_is_no_fruitless_answer() -> None:
    async with serving(saying(response(409))) as server:
        result = await drive(server.url, orders(server.url, 2000), 1, acceptance_s=(0.1, 0.1))
    assert (len(result), result.without_acceptance_s) == (2000, 0.0)


async def test_nobody_there() -> None:
    async with serving(saying(response())) as server:
        pass
    with pytest.raises(Unreachable):
        await drive(server.url, orders(server.url, 2), 2)


async def test_a_server_that_leaves_ends_the_load_with_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "PATIENCE_S", 0.2)

    async def leave(number: int, writer: asyncio.StreamWriter) -> None:
        server.close()
        writer.transport.abort()

    async with serving(leave) as server:
        result = await drive(server.url, orders(server.url, 10), 1)
    assert list(result.statuses) == [NO_ANSWER]
    assert result.gave_up


async def test_the_end_of_the_requests_is_the_end_of_the_load() -> None:
    async with serving(saying(response())) as server:
        result = await drive(server.url, orders(server.url, 0), 3)
    assert (len(result), result.gave_up) == (0, "")


async def test_an_error_of_the_requests_is_raised() -> None:
    def broken(url: str) -> Iterator[Request[int]]:
        yield from orders(url, 3)
        raise LookupError("no more")

    async with serving(saying(response())) as server:
        with pytest.raises(ExceptionGroup) as raised:
            await drive(server.url, broken(server.url), 1)
    assert raised.group_contains(LookupError)


async def test_progress_ends_at_the_number_of_requests() -> None:
    told: list[int] = []
    async with serving(saying(response())) as server:
        await drive(server.url, orders(server.url, 20), 2, told.append)
    assert told == sorted(told)
    assert told[-1] == 20
