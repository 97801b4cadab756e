"""Request smuggling: ingest_api accepts exactly one request, or refuses, over raw sockets."""

import msgspec
import pytest

from tests.support.clients.hostile import CL, GIB, TE, head, order_of
from tests.support.clients.raw_http import PROBLEM, RawClient, check_refused
from tests.support.services.ingest import Ingest

pytestmark = pytest.mark.asyncio(loop_scope="package")

NO_BODY = b"0\r\n\r\n"

HOSTS_THAT_ARE_NONE = (
    *(b"a b", b"a\tb", b"a/b?c@d", b"a@b", b"x#y", b"a\\b", b'"x"', b"%zz", b"\xc3\xa4", b"http://x"),
    *(b"x:80:80", b"x:http", b"::1", b"[::1", b"[x]"),
)

# Heads that two servers in a row may read differently, each followed by an order: name → the bytes before the order.
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
    "gzip, chunked": head(b"Transfer-Encoding: gzip, chunked") + NO_BODY,
    "gzip and chunked": head(b"Transfer-Encoding: gzip", TE) + NO_BODY,
    "identity, chunked": head(b"Transfer-Encoding: identity, chunked") + NO_BODY,
    "chunked with a parameter": head(TE + b";q=1") + NO_BODY,
    "nothing, and chunked": head(b"Transfer-Encoding: , chunked") + NO_BODY,
    "chunked in HTTP/1.0": head(TE, line=b"POST /api/v1/orders HTTP/1.0") + NO_BODY,
    **{
        f"host {host.decode('latin-1')!r}": head(line=b"GET /livez HTTP/1.1", host=(b"Host: " + host,))
        for host in HOSTS_THAT_ARE_NONE
    },
    "no host": head(line=b"GET /livez HTTP/1.1", host=()),
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


def in_chunks(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


async def accepted(ingest: Ingest) -> float:
    return await ingest.metric("headrace_orders_accepted_total")


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
    "host",
    [b"", b"x", b"x:", b"X-1.example:8080", b"a_b", b"127.0.0.1:80", b"[::1]:80", b"[::ffff:1.2.3.4]", b"%C3%A4"],
)
async def test_what_names_a_host_is_taken(ingest: Ingest, host: bytes) -> None:
    client = await RawClient.connect(ingest.service.url)
    client.send(head(line=b"GET /livez HTTP/1.1", host=(b"Host: " + host,)))
    assert (await client.answer())[0] == 200
    client.close()


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


async def test_a_compressed_order_is_none_and_the_next_one_is(ingest: Ingest, product: str) -> None:
    before = await accepted(ingest)
    client = await RawClient.connect(ingest.service.url)
    client.send(order_of(product, 3, b"Content-Encoding: gzip") + order_of(product))
    assert (await client.answer())[0] == 415
    assert (await client.answer())[0] == 202
    assert await accepted(ingest) == before + 1
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
        (b"http://example.org", 200),
        (b"HTTP://example.org:8080", 200),
        (b"http://example.org?x=1", 200),
        (b"http://[::1]:8080", 200),
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
