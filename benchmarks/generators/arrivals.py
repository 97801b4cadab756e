"""The open-loop generator: sends orders at times drawn beforehand.

python -m benchmarks.generators.arrivals

Arrivals are a Poisson process, like those of many independent clients. They do not depend on earlier answers. Latency
counts from the time that a request was due, so a stall costs every request that was due meanwhile (no coordinated
omission). If a request was sent late although a connection was free, the generator itself was late. It records those
times too, so that a run can be judged by them.

One thread, non-blocking sockets, keep-alive connections of which the last one used is used first: 30 to 50 µs of CPU a
request, where k6 takes 500. Only the standard library, so that it starts at once.

ORDERS_URL      where orders are posted: http://HOST:PORT/PATH
ORDERS_BODIES   a file, one request body a line; sent in turn
ORDERS_RATE     requests a second, on average
ORDERS_SECONDS  for how long
ORDERS_CLIENTS  how many connections there may be at once; a request waits for a free one, and its latency counts that
ORDERS_KEYED    not empty: each request has an Idempotency-Key of its own, a UUIDv7
ORDERS_SEED     of the moments; the same seed, rate and seconds are the same moments
ORDERS_DIRECTORY  where summary (JSON), ids (one a line), latencies and latenesses (seconds, as C doubles) go
"""

import errno
import gc
import json
import os
import random
import re
import select
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

# Connections before the first request is due: at 1,000/s with answers after 5 ms, five are in use.
READY_CONNECTIONS = 16
# After the last request was due, answers are waited for so long.
GRACE_S = 10.0
# From the end of the preparations to the first moment.
_LEAD_S = 0.05
# Answers are looked for at least every so many requests, also when many are due at once.
_BURST = 32
_RECEIVE_BYTES = 16 * 1024

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


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """The moments, in seconds from the first possible one, ascending: rate x seconds of them.

    Given how many there are, the arrivals of a Poisson process are so many independent uniform moments. So the number
    is exactly what the rate says, and the gaps are those of strangers.
    """
    drawn = random.Random(seed)
    return sorted(drawn.uniform(0, seconds) for _ in range(round(rate * seconds)))


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


class _Connection:
    """One socket. `request`: the place of what it waits for an answer to; -1: it is free."""

    __slots__ = ("received", "request", "socket", "unsent")

    def __init__(self, to: tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (code := self.socket.connect_ex(to)) not in (0, errno.EINPROGRESS):
            self.socket.close()
            raise OSError(code, os.strerror(code))
        self.received, self.request, self.unsent = b"", -1, b""


# ── I/O below


class Generator:
    """Sends requests when they are due. Its counts are complete when `run` returns."""

    def __init__(
        self, address: tuple[str, int], requests: Sequence[tuple[bytes, bytes]], most: int, keyed: bool
    ) -> None:
        """`requests`: as request_of makes them, sent in turn. `most`: connections at once."""
        self._address, self._requests, self._most, self._keyed = address, requests, most, keyed
        self._poller = select.epoll()  # before all connections: select() knows only the first 1,024 descriptors
        self._connections: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self._waiting: deque[int] = deque()
        self._due: Sequence[float] = ()
        self._start = 0.0
        self.latencies, self.latenesses = array("d"), array("d")
        self.ids: list[bytes] = []
        self.refused = self.failed = self.broken = 0
        self.first_refusal = ""
        self.first_s = self.last_answer = 0.0
        """The first possible moment, in Unix time, and the last answer, counted from there."""

    def run(self, due: Sequence[float]) -> None:
        """Send a request at each of these moments, and wait for the answers, GRACE_S at the most."""
        self._due = due
        for _ in range(min(READY_CONNECTIONS, self._most)):
            self._free.append(self._connect())
        self._start, self.first_s = time.perf_counter() + _LEAD_S, time.time() + _LEAD_S
        place, total, deadline = 0, len(due), (due[-1] if due else 0.0) + GRACE_S
        while place < total or self._in_flight or self._waiting:
            place = self._send_due(place, min(place + _BURST, total))
            now = time.perf_counter() - self._start
            if now > deadline:
                break
            self._listen(max(0.0, (due[place] if place < total else deadline) - now))

    @property
    def unanswered(self) -> int:
        """The number of requests without an answer."""
        return self.broken + self._in_flight

    @property
    def unsent(self) -> int:
        return len(self._waiting)

    @property
    def _in_flight(self) -> int:
        return len(self._connections) - len(self._free)

    def _send_due(self, place: int, end: int) -> int:
        """Send all requests that are due. Returns the index of the first that is not."""
        due = self._due
        while place < end and due[place] <= (now := time.perf_counter() - self._start):
            if self._waiting or not self._begin(place):
                self._waiting.append(place)  # the contender's doing, so it is in the latency and in no lateness
            else:
                self.latenesses.append(now - due[place])
            place += 1
        return place

    def _begin(self, place: int) -> bool:
        """Send a request over a free connection, or over a new one. False: all are in use."""
        if self._free:
            connection = self._free.pop()
        elif len(self._connections) < self._most:
            connection = self._connect()
        else:
            return False
        head, rest = self._requests[place % len(self._requests)]
        connection.request = place
        self._send(connection, head + (f"Idempotency-Key: {new_key()}\r\n".encode() if self._keyed else b"") + rest)
        return True

    def _send(self, connection: _Connection, data: bytes) -> None:
        try:
            sent = connection.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose(connection)
            return
        was_waiting, connection.unsent = bool(connection.unsent), data[sent:]
        if bool(connection.unsent) != was_waiting:
            events = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
            self._poller.modify(connection.socket.fileno(), events)

    def _listen(self, timeout_s: float) -> None:
        """Read answers for at most this long. epoll alone would wait in whole milliseconds."""
        if select.select((self._poller,), (), (), timeout_s)[0]:
            for descriptor, events in self._poller.poll(0):
                connection = self._connections.get(descriptor)
                if connection is None:
                    continue
                if events & select.EPOLLOUT and connection.unsent:
                    self._send(connection, connection.unsent)
                if events & ~select.EPOLLOUT:
                    self._receive(connection)
            self._serve_waiting()

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.received += data
        try:
            answer = answer_in(connection.received)
            is_lost = not data or connection.request < 0
        except Unreadable:
            is_lost = True
        if is_lost:
            self._lose(connection)
        elif answer is not None:
            self._take(connection, answer)

    def _take(self, connection: _Connection, answer: Answer) -> None:
        self.last_answer = time.perf_counter() - self._start
        self.latencies.append(self.last_answer - self._due[connection.request])
        if 200 <= answer.status < 300:
            self.ids += ids_in(answer.body)
        else:
            self._note_refusal(answer)
        connection.received, connection.request = b"", -1
        if answer.is_last:
            self._drop(connection)
        else:
            self._free.append(connection)

    def _note_refusal(self, answer: Answer) -> None:
        self.refused += 1
        self.failed += answer.status >= 500
        self.first_refusal = self.first_refusal or f"{answer.status} {answer.body[:200].decode(errors='replace')}"

    def _lose(self, connection: _Connection) -> None:
        """Handle a connection that the server closed. The outcome of its request is unknown."""
        if connection.request >= 0:
            self.broken += 1
        else:
            self._free.remove(connection)
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _serve_waiting(self) -> None:
        while self._waiting and self._begin(self._waiting[0]):
            self._waiting.popleft()

    def _connect(self) -> _Connection:
        connection = _Connection(self._address)
        self._connections[connection.socket.fileno()] = connection
        self._poller.register(connection.socket.fileno(), select.EPOLLIN)
        return connection


def main() -> int:
    """Run the generator. Returns 0, even if everything was refused: the figures say so."""
    told = os.environ
    url = urlsplit(told["ORDERS_URL"])
    assert url.hostname is not None
    bodies = Path(told["ORDERS_BODIES"]).read_bytes().split()
    requests = [request_of(url.netloc, url.path, body) for body in bodies]
    due = arrivals(float(told["ORDERS_RATE"]), float(told["ORDERS_SECONDS"]), int(told["ORDERS_SEED"]))
    address = (socket.gethostbyname(url.hostname), url.port or 80)
    generator = Generator(address, requests, int(told["ORDERS_CLIENTS"]), bool(told["ORDERS_KEYED"]))
    # Nothing here makes cycles, and a collection of 60,000 ids takes milliseconds.
    gc.disable()
    spent_s = time.process_time()
    generator.run(due)
    cpu_s = time.process_time() - spent_s
    _write(Path(told["ORDERS_DIRECTORY"]), generator, cpu_s)
    return 0


def _write(directory: Path, generator: Generator, cpu_s: float) -> None:
    summary = {
        "first_s": generator.first_s,
        "last_s": generator.first_s + generator.last_answer,
        "answered": len(generator.latencies),
        "refused": generator.refused,
        "failed": generator.failed,
        "unanswered": generator.unanswered,
        "unsent": generator.unsent,
        "first_refusal": generator.first_refusal,
        "cpu_s": cpu_s,
    }
    (directory / "latencies").write_bytes(generator.latencies.tobytes())
    (directory / "latenesses").write_bytes(generator.latenesses.tobytes())
    (directory / "ids").write_bytes(b"\n".join(generator.ids))
    (directory / "summary").write_text(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())
