"""Endless heads, bodies and trailers, sent to ingest_api over raw sockets."""

import asyncio

import pytest

from tests.support.clients.hostile import CL, GIB, MIB, TE, head, memory_of
from tests.support.clients.raw_http import Answer, RawClient, check_refused
from tests.support.services.ingest import Ingest

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize("headers", [(CL % GIB,), (TE,)], ids=["with a length", "without"])
async def test_a_gigabyte_is_413_and_is_not_held(ingest: Ingest, headers: tuple[bytes, ...]) -> None:
    piece = b"%x\r\n%b\r\n" % (MIB, b" " * MIB) if TE in headers else b" " * MIB
    with memory_of(ingest.service) as grown_bytes:
        answers = await asyncio.gather(*(_pour(ingest, head(*headers), piece, GIB) for _ in range(4)))
    for answer in answers:
        check_refused(answer, 413, "too-large")
    assert grown_bytes() < 32 * MIB


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (head()[:-2], b"x: y\r\n" * 10_000),
        (head()[:-2] + b"X: ", b"x" * 60_000),
        (head(TE) + b"1\r\nx\r\n0\r\n", b"X: y\r\n" * 10_000),
        (head(TE) + b"1\r\nx\r\n0\r\nX: ", b"x" * 60_000),
        (head(TE) + b"1;x=", b"x" * 60_000),
        (head(TE, line=b"GET /livez HTTP/1.1") + b"0\r\n", b"X: y\r\n" * 10_000),
    ],
    ids=["headers", "one header", "trailers", "one trailer", "a chunk extension", "trailers after the answer"],
)
async def test_what_is_no_body_ends_too(ingest: Ingest, begin: bytes, piece: bytes) -> None:
    with memory_of(ingest.service) as grown_bytes:
        answer = await _pour(ingest, begin, piece, 64 * MIB)
    if answer[0] != 200:
        check_refused(answer, 431, "head-too-large")
    assert grown_bytes() < 16 * MIB


async def _pour(ingest: Ingest, begin: bytes, piece: bytes, most_bytes: int) -> Answer:
    """Send `piece` repeatedly until the answer comes. Asserts that it comes before `most_bytes`."""
    client = await RawClient.connect(ingest.service.url)

    async def pour() -> None:
        await client.send_all(begin)
        for _ in range(most_bytes // len(piece)):
            await client.send_all(piece)

    pouring, answering = asyncio.create_task(pour()), asyncio.create_task(client.answer())
    await asyncio.wait({pouring, answering}, return_when=asyncio.FIRST_COMPLETED)
    assert not pouring.done() or pouring.exception(), "it took everything"
    answer = await answering
    await asyncio.wait({pouring})
    assert isinstance(pouring.exception(), ConnectionError), "it went on"
    client.close()
    return answer
