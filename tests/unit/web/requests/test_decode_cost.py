"""The largest bodies, as bad as they can be made: none of them stops the process, and all other requests with it."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from ingest_api.intake.bulk import MAX_ORDERS, read, split
from ingest_api.requests import decode_request
from product_api.requests import decode_patch, decode_product, decode_restock
from tests.support.data.problems import pointer_of
from web.problems.problems import Problem
from web.requests.json_body import elements_of
from web.requests.strict_json import check_strictly

MAX_BYTES = 1024**2
# CPU time, which other processes do not add to. The dearest of these bodies takes 0.15 s on a slow core; what grows
# with the square of the size takes minutes.
MOST_S = 1.0

ORDER = b'"productId":"38031c8e-4a7c-4017-a3d4-133b1a5f86ad","quantity":1'
PRODUCT = b'"name":"Laptop","price":1,"qty":1'
ROOM = MAX_BYTES - 200


def as_array(body: bytes) -> None:
    for element in split(b"[" + body + b"]", is_ndjson=False):
        read(element)


def as_lines(body: bytes) -> None:
    for line in split(body, is_ndjson=True):
        read(line)


DECODERS: dict[str, Callable[[bytes], object]] = {
    "an order": decode_request,
    "an array": as_array,
    "no array": lambda body: split(body, is_ndjson=False),
    "lines": as_lines,
    "a product": decode_product,
    "a patch": decode_patch,
    "a restock": decode_restock,
    "strictly": check_strictly,
}


def members(number: int) -> list[bytes]:
    return [b'"%06x":0' % it for it in range(number)]


def repeated(piece: bytes, room: int = ROOM) -> bytes:
    """As often as there is room, with commas between."""
    return b",".join([piece] * (room // (len(piece) + 1)))


def nested(begin: bytes, end: bytes) -> bytes:
    depth = ROOM // len(begin + end)
    return begin * depth + b"1" + end * depth


def order_with(value: bytes) -> bytes:
    return b"{" + ORDER + b',"w":0,"x":' + value + b"}"


MANY = members(ROOM // 12)

BODIES = {
    "a member twice, the last": b"{" + b",".join([*MANY, MANY[-1]]) + b"}",
    "a member twice, the first": b"{" + b",".join([*MANY, MANY[0]]) + b"}",
    "each member twice": b"{" + b",".join(MANY[: len(MANY) // 2] * 2) + b"}",
    "one member again and again": b"{" + repeated(MANY[0]) + b"}",
    "members without end": b"{" + b",".join(MANY) + b"}",
    "a member twice, further in": order_with(b"{" + b",".join([*MANY, MANY[-1]]) + b"}"),
    "objects": order_with(b"[" + repeated(b'{"":0}') + b"]"),
    "numbers": order_with(b"[" + repeated(b"1") + b"]"),
    "elements": repeated(b"1"),
    "a member twice in each line": b"\n".join([b'{"a":0,"a":0}'] * 999),
    "empty lines": b"\n" * ROOM,
    "deep arrays": order_with(nested(b"[", b"]")),
    "deep objects": order_with(nested(b'{"":', b"}")),
    "arrays that do not end": b"[" * ROOM,
    "a long number": b'{"quantity":' + b"9" * ROOM + b"}",
    "a long price": b'{"name":"x","qty":1,"price":' + b"9" * ROOM + b"}",
    "a long fraction": b'{"name":"x","qty":1,"price":1.' + b"0" * ROOM + b"}",
    "a long exponent": b'{"name":"x","qty":1,"price":1e' + b"9" * ROOM + b"}",
    "a long name": b'{"name":"' + b"\\u0001" * (ROOM // 6) + b'","qty":1,"price":1}',
    "quotes": b'"' * ROOM,
    "escapes": order_with(b'"' + b"\\u00e9" * (ROOM // 6) + b'"'),
}


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_body_takes_long_to_decode(body: bytes, decode: Callable[[bytes], object]) -> None:
    assert len(body) <= MAX_BYTES
    began = time.process_time()
    with suppress(Problem):
        decode(body)
    assert time.process_time() - began < MOST_S


def test_the_member_that_comes_twice_is_named_however_many_there_are() -> None:
    with pytest.raises(Problem) as refused:
        check_strictly(BODIES["a member twice, the last"])
    assert refused.value.detail == f'The member "{MANY[-1][1:7].decode()}" comes twice in one object. Send it once.'


def test_more_elements_than_are_wanted_are_counted_and_not_copied() -> None:
    with pytest.raises(Problem) as refused:
        split(b"[" + BODIES["elements"] + b"]", is_ndjson=False)
    assert (refused.value.status, pointer_of(refused.value)) == (422, "")
    assert "524188 elements" in refused.value.detail
    assert len(elements_of(b"[" + repeated(b"1", 2 * MAX_ORDERS) + b"]", MAX_ORDERS)) == MAX_ORDERS
    assert len(elements_of(b"[" + BODIES["elements"] + b"]")) == 524188
