"""The load generator against a real server on a real socket, one that answers as badly as servers do."""

import asyncio
import time
from collections.abc import Iterator

import pytest
import uvloop

from proof import load as load_module
from proof.load import drive
from proof.load_result import NO_ANSWER, LoadResult, Request
from tests.support.clients.load_server import ID, Server, orders, response, saying, serving


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
        time.sleep(1.1)
        yield from requests

    async def run() -> tuple[list[bytes], list[int]]:
        async with serving(saying(response())) as server:
            result = await drive(server.url, slowly(orders(server.url, 3)), 1, timeout_s=1.0)
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


async def test_the_connections_that_were_open_at_once_are_counted() -> None:
    async with serving(saying(response(headers="Connection: close\r\n"))) as server:
        result = await drive(server.url, orders(server.url, 30), 3)
    assert result.open_at_once == 3


async def test_only_http() -> None:
    with pytest.raises(ValueError, match="http://"):
        await drive("https://127.0.0.1", orders("https://127.0.0.1", 1), 1)


async def test_what_an_answer_makes_necessary_is_sent_next_and_recorded_apart() -> None:
    """Also if the answer was the last one, and if the server closes each connection."""
    for headers in ("", "Connection: close\r\n"):
        async with serving(saying(response(headers=headers))) as server:

            def follow(request: Request[int], kept: bytes, url: str = server.url) -> Request[str] | None:
                return Request.post(url, b"follows %d" % request.about, kept.decode()) if request.about % 2 else None

            result = await drive(server.url, orders(server.url, 4), 1, follow=follow)
        assert server.bodies == [b'{"n":0}', b'{"n":1}', b"follows 1", b'{"n":2}', b'{"n":3}', b"follows 3"]
        assert [it.about for it in result.requests] == [0, 1, 2, 3]
        assert [(it.about, status, kept) for it, status, kept in result.follow_up_answers()] == [
            (ID, 202, ID.encode())
        ] * 2


async def test_a_refused_order_makes_nothing_necessary() -> None:
    async with serving(saying(response(409))) as server:
        result = await drive(server.url, orders(server.url, 3), 1, follow=lambda request, _: Request(b"", "x"))
    assert (list(result.statuses), list(result.follow_up_answers())) == ([409] * 3, [])
