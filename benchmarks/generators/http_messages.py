"""HTTP/1.1 as the open-loop generator writes and reads it. Only the standard library, so that it starts at once."""

import random
import re
import time
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_ID = b'"id":"'
_ID_BYTES = 36


class Answer(NamedTuple):
    status: int
    body: bytes
    is_last: bool
    """Of its connection."""


class Unreadable(Exception):
    """An answer without Content-Length, or not HTTP, so its end is unknown."""


def request_of(host: str, path: str, body: bytes) -> tuple[bytes, bytes]:
    """(head without its empty line, rest), so that a header fits between."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode(), b"\r\n" + body


def answer_in(data: bytes) -> Answer | None:
    """The answer, once it is complete. Raises Unreadable."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = _LENGTH.search(data, 0, end + 2)
    if length is None or not data.startswith(b"HTTP/1.1 "):
        raise Unreadable(data[:60])
    begin = end + 4
    if len(data) < begin + int(length[1]):
        return None
    return Answer(int(data[9:12]), data[begin:], _CLOSES.search(data, 0, end + 2) is not None)


def ids_in(body: bytes) -> list[bytes]:
    """All ids of the orders in an answer, of one order or of a bulk."""
    found = []
    at = body.find(_ID)
    while at >= 0:
        at += len(_ID)
        found.append(body[at : at + _ID_BYTES])
        at = body.find(_ID, at + _ID_BYTES)
    return found


def new_key() -> str:
    """A UUID of version 7 (RFC 9562)."""
    bits = time.time_ns() // 1_000_000 << 80 | random.getrandbits(80)
    bits = bits & ~(0xF << 76) | 7 << 76
    digits = f"{bits & ~(0b11 << 62) | 0b10 << 62:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
