"""ingest_api against clients that mean harm, over raw sockets: slow ones, endless ones, smugglers, and very many."""

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from ingest_api.app import make_app
from ingest_api.settings import IngestSettings
from tests.conftest import Servers, emptied_redis, environment_of, own_database, own_vhost
from tests.ingest import Ingest, ingesting, insert_product
from tests.processes import running
from tests.raw_http import PROBLEM, Answer, RawClient, check_refused
from tests.settings import settings_from
from web import body as web_body
from web import connections

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024**2
GIB = 1024**3
IDLE_CONNECTIONS = 10_000
HONEST_P99_S = 0.1


@pytest.fixture(scope="module")
def shared_environment(servers: Servers, template_database: str, order_id_key: str) -> Iterator[dict[str, str]]:
    with own_database(servers, template_database) as database_url, own_vhost(servers) as amqp_url:
        yield environment_of(database_url, amqp_url, emptied_redis(servers), order_id_key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def product(shared_environment: dict[str, str]) -> str:
    return await insert_product(shared_environment["DATABASE_URL"], qty=10**9)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ingest(shared_environment: dict[str, str], product: str) -> AsyncIterator[Ingest]:
    """A process of ingest_api for the whole module. Whatever is done to it here, it finds nothing to report."""
    async with ingesting(shared_environment, max_connections=IDLE_CONNECTIONS + 1_000) as it:
        assert (await it.order(product)).status_code == 202
        yield it
        assert (await it.order(product)).status_code == 202
        assert it.service.log().count('"level":"error"') == 0, it.service.log()[-2000:]


def order_of(product: str, quantity: int = 1, *headers: bytes) -> bytes:
    """A whole request."""
    content = msgspec.json.encode({"productId": product, "quantity": quantity})
    return head(b"Content-Length: %d" % len(content), *headers) + content


def head(*headers: bytes, line: bytes = b"POST /api/v1/orders HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: x", b"Content-Type: application/json", *headers]) + b"\r\n\r\n"


def in_chunks(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


async def accepted(ingest: Ingest) -> float:
    return await ingest.metric("headrace_orders_accepted_total")


# ── one request, and what is not one


CL, TE = b"Content-Length: %d", b"Transfer-Encoding: chunked"
NO_BODY = b"0\r\n\r\n"

# What two servers in a row may read differently, each with an order behind it. Names, and what comes before the order.
SHAPES = {
    "length and chunked": head(b"Content-Length: 5", TE) + NO_BODY,
    "chunked and length": head(TE, b"Content-Length: 5") + NO_BODY,
    "length 0 and chunked": head(b"Content-Length: 0", TE) + NO_BODY,
    "two lengths": head(b"Content-Length: 0", b"Content-Length: 5"),
    "one length twice": head(b"Content-Length: 0", b"Content-Length: 0"),
    "a list of lengths": head(b"Content-Length: 0, 0"),
    "length with plus": head(b"Content-Length: +0"),
    "length with minus": head(b"Content-Length: -0"),
    "length in hex": head(b"Content-Length: 0x0"),
    "length with a space": head(b"Content-Length: 0 0"),
    "length with an underscore": head(b"Content-Length: 0_0"),
    "length of nothing": head(b"Content-Length: "),
    "length past 64 bits": head(b"Content-Length: 18446744073709551616"),
    "folded line": head(b"X: a\r\n b", b"Content-Length: 0"),
    "folded chunked": head(b"Transfer-Encoding:\r\n chunked") + NO_BODY,
    "bare line feeds": head(b"Content-Length: 0").replace(b"\r\n", b"\n"),
    "bare line feed at the end": head(b"Content-Length: 0")[:-4] + b"\n\n",
    "line feed in a header": head(b"X: a\nTransfer-Encoding: chunked", b"Content-Length: 0"),
    "carriage return in a header": head(b"X: a\rTransfer-Encoding: chunked", b"Content-Length: 0"),
    "chunk past 64 bits": head(TE) + b"10000000000000000\r\n",
    "chunk past 64 bits, and 5": head(TE) + b"10000000000000005\r\nhello\r\n" + NO_BODY,
    "chunk with 0x": head(TE) + b"0x0\r\n\r\n",
    "chunk with minus": head(TE) + b"-0\r\n\r\n",
    "chunk with plus": head(TE) + b"+0\r\n\r\n",
    "chunk with a space": head(TE) + b"0 \r\n\r\n",
    "chunk with a line feed": head(TE) + b"0\n\n",
    "chunk without its end": head(TE) + b"5\r\nhello" + NO_BODY,
    "chunk longer than it says": head(TE) + b"5\r\nhello!\r\n" + NO_BODY,
    "chunk extension with a line feed": head(TE) + b"0;a\nb\r\n\r\n",
    "chunked twice": head(TE, TE) + NO_BODY,
    "chunked, chunked": head(TE + b", chunked") + NO_BODY,
    "chunked, identity": head(TE + b", identity") + NO_BODY,
    "identity": head(b"Transfer-Encoding: identity"),
    "identity and length": head(b"Transfer-Encoding: identity", b"Content-Length: 0"),
    "xchunked": head(b"Transfer-Encoding: xchunked") + NO_BODY,
    "xchunked and length": head(b"Transfer-Encoding: xchunked", b"Content-Length: 0"),
    "quoted chunked": head(b'Transfer-Encoding: "chunked"') + NO_BODY,
    "vertical tab before chunked": head(b"Transfer-Encoding: \x0bchunked") + NO_BODY,
    "encoding of nothing": head(b"Transfer-Encoding: "),
    "space before a colon": head(b"Content-Length : 0"),
    "space before the colon of chunked": head(b"Transfer-Encoding : chunked", b"Content-Length: 0") + NO_BODY,
    "space before the first header": head(b"Content-Length: 0").replace(b"Host", b" Host"),
    "header without a name": head(b": x", b"Content-Length: 0"),
    "header without a colon": head(b"x", b"Content-Length: 0"),
    "NUL in a value": head(b"X: a\0b", b"Content-Length: 0"),
    "NUL in a name": head(b"X\0: a", b"Content-Length: 0"),
    "NUL in the target": head(line=b"GET /livez\0 HTTP/1.1"),
    "no host": head(line=b"GET /livez HTTP/1.1").replace(b"Host: x\r\n", b""),
    "two hosts": head(b"Host: y", line=b"GET /livez HTTP/1.1"),
    "HTTP/0.9": b"GET /livez\r\n",
    "HTTP/0.9, said so": head(line=b"GET /livez HTTP/0.9"),
    "HTTP/1.2": head(line=b"GET /livez HTTP/1.2"),
    "HTTP/2.0": head(line=b"GET /livez HTTP/2.0"),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "unknown method": head(line=b"ORDER /livez HTTP/1.1"),
    "method in lower case": head(line=b"get /livez HTTP/1.1"),
    "no target": head(line=b"GET  HTTP/1.1"),
    "target without a slash": head(line=b"GET livez HTTP/1.1"),
    "target with a space": head(line=b"GET /livez HTTP/1.1 HTTP/1.1"),
    "target that is not ASCII": head(line=b"GET /\xff HTTP/1.1"),
    "absolute target without a host": head(line=b"GET http:///livez HTTP/1.1"),
    "absolute target with a port that is none": head(line=b"GET http://x:99999/livez HTTP/1.1"),
    "CONNECT": head(line=b"CONNECT x:80 HTTP/1.1"),
    "chunked and length behind an offer to upgrade": head(b"Connection: Upgrade", b"Upgrade: h2c", TE, CL % 5)
    + NO_BODY,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_what_can_be_read_in_two_ways_is_refused_and_what_is_behind_it_is_never_carried_out(
    ingest: Ingest, product: str, shape: bytes
) -> None:
    before = await accepted(ingest)
    client = await RawClient.connect(ingest.service.url)
    client.send(shape + order_of(product))
    check_refused(await client.answer(), 400, "malformed")
    client.send(order_of(product))
    assert await client.is_closed()
    assert await accepted(ingest) == before


@pytest.mark.parametrize(
    "headers",
    [(b"transfer-encoding:\tcHuNkEd ",), (b"Connection: Upgrade", b"Upgrade: h2c", TE), (TE, b"Trailer: X")],
)
async def test_a_chunked_order_is_an_order_and_the_next_one_too(
    ingest: Ingest, product: str, headers: tuple[bytes, ...]
) -> None:
    content = msgspec.json.encode({"productId": product, "quantity": 3})
    client = await RawClient.connect(ingest.service.url)
    client.send(b"\r\n" + head(*headers) + b"1;x=y\r\n{\r\n" + in_chunks(content[1:])[:-2] + b"X: y\r\n\r\n")
    client.send(order_of(product, 4))
    for quantity in (3, 4):
        status, _, body = await client.answer()
        assert (status, msgspec.json.decode(body)["quantity"]) == (202, quantity)
    client.close()


async def test_a_trailer_is_no_idempotency_key(ingest: Ingest, product: str) -> None:
    content = in_chunks(msgspec.json.encode({"productId": product, "quantity": 1}))
    locations = set()
    for _ in range(2):
        client = await RawClient.connect(ingest.service.url)
        await client.send_all(head(TE) + content[:-7])
        await ingest.get("/livez")
        client.send(content[-7:-2] + b"Idempotency-Key: trailer\r\n\r\n")
        status, headers, _ = await client.answer()
        assert (status, "idempotency-replayed" in headers) == (202, False)
        locations.add(headers["location"])
        client.close()
    assert len(locations) == 2


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://example.org/livez", 200),
        (b"/livez?x=%00&y", 200),
        (b"/livez#fragment", 200),
        (b"//livez", 404),
        (b"/livez/", 404),
        (b"/../livez", 404),
        (b"/%2e%2e/livez", 404),
        (b"/%00", 404),
        (b"/%ff%fe", 404),
        (b"/" + b"x" * 30_000, 404),
        (b"/livez;x", 404),
        (b"*", 404),
    ],
    ids=lambda it: str(it)[:24],
)
async def test_an_odd_target_is_an_answer_and_the_connection_lives_on(
    ingest: Ingest, target: bytes, status: int
) -> None:
    client = await RawClient.connect(ingest.service.url)
    method = b"OPTIONS" if target == b"*" else b"GET"
    client.send(head(line=b"%b %b HTTP/1.1" % (method, target)) + head(line=b"GET /livez HTTP/1.1"))
    first = await client.answer()
    assert first[0] == status
    assert status == 200 or first[1]["content-type"] == PROBLEM
    assert (await client.answer())[0] == 200
    client.close()


async def test_a_hundred_orders_in_one_write_are_answered_in_their_order(ingest: Ingest, product: str) -> None:
    client = await RawClient.connect(ingest.service.url)
    client.send(b"".join(order_of(product, number) for number in range(1, 101)))
    answers = [await client.answer() for _ in range(100)]
    assert {status for status, _, _ in answers} == {202}
    assert [msgspec.json.decode(body)["quantity"] for _, _, body in answers] == list(range(1, 101))
    assert len({headers["location"] for _, headers, _ in answers}) == 100
    client.close()


async def test_a_client_that_asks_first_is_told_to_go_on_or_not_to_begin(ingest: Ingest, product: str) -> None:
    expect = b"Expect: 100-continue"
    order = order_of(product, 1, expect)
    length = order.index(b"\r\n\r\n") + 4
    client = await RawClient.connect(ingest.service.url)
    client.send(order[:length])
    assert (await client.answer())[0] == 100
    client.send(order[length:])
    assert (await client.answer())[0] == 202
    client.send(head(expect, CL % GIB))
    check_refused(await client.answer(), 413, "too-large")
    assert await client.is_closed()


# ── without end


@pytest.mark.parametrize("headers", [(CL % GIB,), (TE,)], ids=["with a length", "without"])
async def test_a_gigabyte_is_413_and_is_not_held(ingest: Ingest, headers: tuple[bytes, ...]) -> None:
    piece = b"%x\r\n%b\r\n" % (MIB, b" " * MIB) if TE in headers else b" " * MIB
    with memory_of(ingest) as grown_bytes:
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
    with memory_of(ingest) as grown_bytes:
        answer = await _pour(ingest, begin, piece, 64 * MIB)
    if answer[0] != 200:
        check_refused(answer, 431, "head-too-large")
    assert grown_bytes() < 16 * MIB


async def _pour(ingest: Ingest, begin: bytes, piece: bytes, most_bytes: int) -> Answer:
    """Send `piece` again and again until there is an answer, which must be before `most_bytes`."""
    client = await RawClient.connect(ingest.service.url)

    async def pour() -> None:
        await client.send_all(begin)
        for _ in range(most_bytes // len(piece)):
            await client.send_all(piece)

    pouring, answering = asyncio.create_task(pour()), asyncio.create_task(client.answer())
    await asyncio.wait({pouring, answering}, return_when=asyncio.FIRST_COMPLETED)
    assert not pouring.done(), "it took everything"
    answer = await answering
    await asyncio.wait({pouring})
    assert isinstance(pouring.exception(), ConnectionError), "it went on"
    client.close()
    return answer


@contextmanager
def memory_of(ingest: Ingest) -> Iterator[Callable[[], int]]:
    """By how many bytes the most that the process has held has grown since."""
    process = Path("/proc") / str(ingest.service.process.pid)
    (process / "clear_refs").write_text("5")  # the high-water mark begins anew
    before = _peak_bytes(process)
    yield lambda: _peak_bytes(process) - before


def _peak_bytes(process: Path) -> int:
    line = next(it for it in (process / "status").read_text().splitlines() if it.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


# ── slow, and many


@asynccontextmanager
async def impatient(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The same service, in this process, with deadlines that a test can wait for. Its URL."""
    monkeypatch.setattr(connections, "HEAD_DEADLINE_S", 0.5)
    monkeypatch.setattr(web_body, "_DEADLINE_S", 0.5)
    async with running(make_app(settings_from(IngestSettings, environment), asyncio.Event())) as url:
        yield url


async def test_slow_heads_and_slow_bodies_are_408_and_hold_up_nobody(
    shared_environment: dict[str, str], product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(product)
    slow = [order[:20], order[:-3], head(TE) + b"5\r\n{", head(TE) + b"1\r\n", order[:-3].replace(b"/api", b"/./api")]
    async with impatient(shared_environment, monkeypatch) as url:
        clients = [await RawClient.connect(url) for _ in range(20) for _ in slow]
        for number, client in enumerate(clients):
            client.send(slow[number % len(slow)])
        honest = await RawClient.connect(url)
        honest.send(order)
        assert (await honest.answer())[0] == 202
        answers = [await client.answer() for client in clients]
        assert {(status, headers["content-type"]) for status, headers, _ in answers} == {(408, PROBLEM), (404, PROBLEM)}
        assert [status for status, _, _ in answers[: len(slow)]] == [408, 408, 408, 408, 404]
        for client, (status, _, _) in zip(clients, answers, strict=True):
            if status == 408:
                assert await client.is_closed()
            client.close()
        honest.close()


async def test_a_body_byte_by_byte_ends_at_the_deadline_all_the_same(
    shared_environment: dict[str, str], product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with impatient(shared_environment, monkeypatch) as url:
        client = await RawClient.connect(url)
        await client.send_all(head(CL % 60_000))
        answering = asyncio.create_task(client.answer())
        while not answering.done():
            await client.send_all(b" ")
            await asyncio.wait({answering}, timeout=0.05)
        check_refused(await answering, 408, "too-slow")
        client.close()


@pytest.mark.timeout(90)
async def test_ten_thousand_idle_connections_do_not_slow_an_honest_client_down(ingest: Ingest, product: str) -> None:
    """Measured up to three times, because other work on the machine counts as well: the best must do."""
    with many_files(IDLE_CONNECTIONS + 1_000), memory_of(ingest) as grown_bytes:
        idle = await asyncio.to_thread(_connect_many, ingest, IDLE_CONNECTIONS)
        try:
            p99s: list[float] = []
            while not p99s or (min(p99s) > HONEST_P99_S and len(p99s) < 3):
                p99s.append(await _p99_s(ingest, order_of(product)))
            assert min(p99s) < HONEST_P99_S, p99s
            print(f"p99 {[round(it * 1e3, 1) for it in p99s]} ms, memory +{grown_bytes() / MIB:.0f} MiB")
            assert grown_bytes() < 500 * MIB
        finally:
            for connection in idle:
                connection.close()


async def _p99_s(ingest: Ingest, order: bytes, orders: int = 200) -> float:
    client = await RawClient.connect(ingest.service.url)
    took_s = []
    for _ in range(orders):
        began = time.perf_counter()
        client.send(order)
        assert (await client.answer())[0] == 202
        took_s.append(time.perf_counter() - began)
    client.close()
    return sorted(took_s)[orders * 99 // 100 - 1]


def _connect_many(ingest: Ingest, number: int) -> list[socket.socket]:
    """Every second one has been served already."""
    address = ("127.0.0.1", int(ingest.service.url.rpartition(":")[2]))
    idle = [socket.create_connection(address, timeout=30) for _ in range(number)]
    for connection in idle[::2]:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    for connection in idle[::2]:
        assert connection.recv(12) == b"HTTP/1.1 200"
    return idle


@contextmanager
def many_files(number: int) -> Iterator[None]:
    """Let this process open so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number + 1_000), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
