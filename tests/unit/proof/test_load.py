"""The load generator against a real server on a real socket, one that answers as badly as servers do."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from proof import load as load_module
from proof.bodies import id_of, problem_detail, problem_name
from proof.load import Unreachable, drive
from proof.load_result import NO_ANSWER, LoadResult, Request, is_accepted, is_refused, percentile
from tests.support.time.conditions import eventually

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]
"""Answers the n-th request of a connection, counted from 0."""

ID = "01940000-0000-8000-8000-000000000000"


class Server:
    """Counts what it is asked; `answer` decides what it says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections = 0
        self.bodies: list[bytes] = []
        self.url = ""
        self.close: Callable[[], None] = lambda: None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for number in itertools.count():
                self.bodies.append(await read_body(reader))
                await self.answer(number, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def read_body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.split(b":")[1]))


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.close = listener.close
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def response(status: int = 202, body: bytes = b'{"id":"%s"}' % ID.encode(), headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def saying(*answers: bytes) -> Answer:
    """Answers of one connection, in turn; the last one for ever."""

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[min(number, len(answers) - 1)])

    return answer


def orders(url: str, count: int) -> Iterator[Request[int]]:
    return (Request.post(f"{url}/orders", b'{"n":%d}' % number, number) for number in range(count))


async def test_each_request_is_sent_once_and_answered() -> None:
    async with serving(saying(response())) as server:
        result = await drive(server.url, orders(server.url, 100), 7)
    assert sorted(server.bodies) == sorted(b'{"n":%d}' % number for number in range(100))
    assert sorted(request.about for request in result.requests) == list(range(100))
    assert list(result.statuses) == [202] * 100
    assert result.kept == [ID.encode()] * 100
    assert 0 < min(result.took_s) <= max(result.took_s) <= result.ended_s - result.started_s


async def test_connections_are_kept() -> None:
    async with serving(saying(response())) as server:
        await drive(server.url, orders(server.url, 100), 4)
    assert server.connections == 4


async def test_an_answer_may_come_byte_by_byte() -> None:
    async def trickle(number: int, writer: asyncio.StreamWriter) -> None:
        for byte in response(headers="Retry-After: 0\r\n"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(trickle) as server:
        result = await drive(server.url, orders(server.url, 5), 1)
    assert (list(result.statuses), server.connections) == ([202] * 5, 1)
    assert result.kept == [ID.encode()] * 5


async def test_an_answer_may_be_chunked() -> None:
    chunked = (
        b"HTTP/1.1 202 X\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n" + b'{"id":\r\n5\r\n"abc"\r\n1\r\n}\r\n0\r\n\r\n'
    )
    async with serving(saying(chunked)) as server:
        result = await drive(server.url, orders(server.url, 3), 1)
    assert result.kept == [b"abc"] * 3


async def test_an_interim_answer_is_not_the_answer() -> None:
    async with serving(saying(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + response())) as server:
        result = await drive(server.url, orders(server.url, 3), 1)
    assert list(result.statuses) == [202] * 3


async def test_a_second_answer_is_not_taken_for_the_next_request() -> None:
    """Two answers in one segment: the second one answers nothing, so the connection cannot be trusted any more."""
    async with serving(saying(response(202) + response(500))) as server:
        result = await drive(server.url, orders(server.url, 4), 1)
    assert list(result.statuses) == [202] * 4
    assert server.connections >= 4


async def test_connection_close_is_followed() -> None:
    async with serving(saying(response(headers="Connection: close\r\n"))) as server:
        result = await drive(server.url, orders(server.url, 6), 2)
    assert list(result.statuses) == [202] * 6
    assert server.connections >= 6


async def test_a_reset_in_mid_flight_is_unknown_and_the_load_goes_on() -> None:
    async def reset_every_third(number: int, writer: asyncio.StreamWriter) -> None:
        if number < 2:
            writer.write(response())
        else:
            writer.transport.abort()

    async with serving(reset_every_third) as server:
        result = await drive(server.url, orders(server.url, 9), 1)
    assert list(result.statuses) == [202, 202, NO_ANSWER] * 3
    assert len(server.bodies) == 9  # none was sent again


async def test_an_answer_cut_short_is_unknown() -> None:
    async def cut(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(response()[:-1])
        writer.close()

    async with serving(cut) as server:
        result = await drive(server.url, orders(server.url, 3), 1)
    assert list(result.statuses) == [NO_ANSWER] * 3


async def test_what_is_no_http_is_unknown() -> None:
    async with serving(saying(b"hello\r\n\r\n")) as server:
        result = await drive(server.url, orders(server.url, 2), 1)
    assert list(result.statuses) == [NO_ANSWER] * 2


async def test_a_request_without_an_answer_times_out() -> None:
    async def silent(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving(silent) as server:
        result = await drive(server.url, orders(server.url, 2), 2, timeout_s=0.2)
    assert list(result.statuses) == [NO_ANSWER] * 2
    assert min(result.took_s) >= 0.2


@pytest.mark.parametrize("retry_after", ["Retry-After: 60\r\n", "", "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT\r\n"])
async def test_a_503_rests_its_connection(monkeypatch: pytest.MonkeyPatch, retry_after: str) -> None:
    monkeypatch.setattr(load_module, "MAX_PAUSE_S", 0.3)
    async with serving(saying(response(503, b"full", retry_after), response())) as server:
        result = await drive(server.url, orders(server.url, 2), 1)
    assert list(result.statuses) == [503, 202]
    assert result.sent_s[1] - result.sent_s[0] >= 0.3
    assert server.connections == 1
    assert result.samples == {503: b"full"}


def test_nothing_is_sent_by_an_attempt_to_connect_that_is_given_up() -> None:
    """On uvloop, whose clock runs first: a busy loop lets the attempt time out after the connection was made."""

    def slowly(requests: Iterator[Request[int]]) -> Iterator[Request[int]]:
        time.sleep(0.3)
        yield from requests

    async def run() -> tuple[list[bytes], list[int]]:
        async with serving(saying(response())) as server:
            result = await drive(server.url, slowly(orders(server.url, 3)), 1, timeout_s=0.2)
        return server.bodies, list(result.statuses)

    bodies, statuses = uvloop.run(run())
    assert (len(bodies), statuses) == (3, [202] * 3)


@pytest.mark.parametrize("clients", [1, 300])
def test_what_arrives_at_a_server_that_is_slow_to_accept_is_accounted_for(clients: int) -> None:
    async def slow(number: int, writer: asyncio.StreamWriter) -> None:
        time.sleep(0.001)  # noqa: ASYNC251 - it is the loop that has to be busy
        writer.write(response())

    async def run() -> tuple[Server, LoadResult[int]]:
        async with serving(slow) as server:
            result = await drive(server.url, orders(server.url, 900), clients, timeout_s=0.03)
        return server, result

    server, result = uvloop.run(run())
    assert set(server.bodies) <= {b'{"n":%d}' % request.about for request in result.requests}
    assert len(server.bodies) <= len(result) <= 900
    assert 1 <= result.open_at_once <= clients


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


async def test_the_connections_that_were_open_at_once_are_counted() -> None:
    async with serving(saying(response(headers="Connection: close\r\n"))) as server:
        result = await drive(server.url, orders(server.url, 30), 3)
    assert result.open_at_once == 3


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


async def test_only_http() -> None:
    with pytest.raises(ValueError, match="http://"):
        await drive("https://127.0.0.1", orders("https://127.0.0.1", 1), 1)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"product_id":"b","id":"a"}', b"a"),
        (b'{ "product_id": "b", "id" : "a" }', b"a"),
        (b'{"product_id":"b"}', b""),
        (b'{"id":5}', b""),
        (b"[]", b""),
        (b"", b""),
    ],
)
def test_id_of(body: bytes, found: bytes) -> None:
    assert id_of(body) == found


@pytest.mark.parametrize("status", [NO_ANSWER, 200, 302, 500, 502, 503, 504])
def test_unknown_is_neither(status: int) -> None:
    assert not is_accepted(status)
    assert not is_refused(status)


@pytest.mark.parametrize(
    ("status", "problem", "refused"),
    [
        (503, b"overloaded", True),
        (503, b"broker-unavailable", True),
        (503, b"store-unavailable", True),
        (503, b"outcome-unknown", False),
        (503, b"", False),
        (500, b"overloaded", False),
        (409, b"", True),
        (422, b"unknown-product", True),
    ],
)
def test_a_503_is_a_refusal_if_it_says_so(status: int, problem: bytes, refused: bool) -> None:
    assert is_refused(status, problem) is refused


@pytest.mark.parametrize(
    ("body", "name", "detail"),
    [
        (b'{"type":"/docs/problems/overloaded","detail":"Slowly."}', b"overloaded", "Slowly."),
        (b'{"type":"about:blank"}', b"about:blank", '{"type":"about:blank"}'),
        (b'{"type":5}', b"", '{"type":5}'),
        (b"full \xff", b"", "full \ufffd"),
        (b"", b"", ""),
    ],
)
def test_a_problem_is_read(body: bytes, name: bytes, detail: str) -> None:
    assert (problem_name(body), problem_detail(body)) == (name, detail)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_percentile_is_the_smallest_that_enough_do_not_exceed(values: list[float], fraction: float) -> None:
    values.sort()
    found = percentile(values, fraction)
    assert found is not None
    assert sum(value <= found for value in values) >= fraction * len(values)
    assert sum(value < found for value in values) < fraction * len(values)


def test_percentile_of_nothing() -> None:
    assert percentile([], 0.5) is None
