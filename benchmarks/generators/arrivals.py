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
ORDERS_CANCELLED  the share of orders that their client cancels at once; such a request is due when it can be sent
ORDERS_SEED     of the moments; the same seed, rate and seconds are the same moments
ORDERS_DIRECTORY  where summary (JSON), ids, cancels (an id a line), latencies and latenesses (seconds, as C doubles) go
"""

import errno
import gc
import json
import os
import random
import select
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.generators.http_messages import Answer, Unreadable, answer_in, ids_in, new_key, request_of

# Connections before the first request is due: at 1,000/s with answers after 5 ms, five are in use.
READY_CONNECTIONS = 16
# After the last request was due, answers are waited for so long.
GRACE_S = 10.0
# From the end of the preparations to the first moment.
_LEAD_S = 0.05
# Answers are looked for at least every so many requests, also when many are due at once.
_BURST = 32
_RECEIVE_BYTES = 16 * 1024


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """The moments, in seconds from the first possible one, ascending: rate x seconds of them.

    Given how many there are, the arrivals of a Poisson process are so many independent uniform moments. So the number
    is exactly what the rate says, and the gaps are those of strangers.
    """
    drawn = random.Random(seed)
    return sorted(drawn.uniform(0, seconds) for _ in range(round(rate * seconds)))


# What a connection waits for, if it is not an order by its place.
_NOTHING, _CANCEL = -1, -2


class _Connection:
    """One socket. `request`: the place of the order whose answer it waits for, _CANCEL or _NOTHING."""

    __slots__ = ("cancels", "received", "request", "socket", "unsent")

    def __init__(self, to: tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (code := self.socket.connect_ex(to)) not in (0, errno.EINPROGRESS):
            self.socket.close()
            raise OSError(code, os.strerror(code))
        self.received, self.request, self.unsent = b"", _NOTHING, b""
        self.cancels = b""
        """The id of the order that is being cancelled."""


# ── I/O below


class Generator:
    """Sends requests when they are due. Its counts are complete when `run` returns."""

    def __init__(
        self,
        url: str,
        requests: Sequence[tuple[bytes, bytes]],
        most: int,
        *,
        keyed: bool = False,
        cancelled: float = 0.0,
    ) -> None:
        """`requests`: as request_of makes them, sent in turn to `url`. `most`: connections at once. `cancelled`: the
        share of orders to cancel.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._address = (socket.gethostbyname(parts.hostname), parts.port or 80)
        self._host, self._path = parts.netloc, parts.path
        self._requests, self._most, self._keyed = requests, most, keyed
        self._share, self._owed = cancelled, 0.0
        self._to_cancel: deque[bytes] = deque()
        self._poller = select.epoll()  # before all connections: select() knows only the first 1,024 descriptors
        self._connections: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self._waiting: deque[int] = deque()
        self._due: Sequence[float] = ()
        self._start = 0.0
        self.latencies, self.latenesses = array("d"), array("d")
        self.ids: list[bytes] = []
        self.cancelled: list[bytes] = []
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
        while place < total or self._in_flight or self._waiting or self._to_cancel:
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
        """Send an order over a free connection, or over a new one. False: all are in use."""
        if (connection := self._unused()) is None:
            return False
        head, rest = self._requests[place % len(self._requests)]
        connection.request = place
        self._send(connection, head + (f"Idempotency-Key: {new_key()}\r\n".encode() if self._keyed else b"") + rest)
        return True

    def _cancel(self, order_id: bytes) -> bool:
        """As _begin, for the cancellation of an order."""
        if (connection := self._unused()) is None:
            return False
        connection.request, connection.cancels = _CANCEL, order_id
        self._send(connection, b"".join(request_of(self._host, f"{self._path}/{order_id.decode()}/cancel", b"")))
        return True

    def _unused(self) -> _Connection | None:
        if self._free:
            return self._free.pop()
        return self._connect() if len(self._connections) < self._most else None

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
            is_lost = not data or connection.request == _NOTHING
        except Unreadable:
            is_lost = True
        if is_lost:
            self._lose(connection)
        elif answer is not None:
            self._take(connection, answer)

    def _take(self, connection: _Connection, answer: Answer) -> None:
        self.last_answer = time.perf_counter() - self._start
        is_cancel = connection.request == _CANCEL
        if not is_cancel:
            self.latencies.append(self.last_answer - self._due[connection.request])
        if not 200 <= answer.status < 300:
            self._note_refusal(answer)
        elif is_cancel:
            self.cancelled.append(connection.cancels)
        else:
            self._note_accepted(ids_in(answer.body))
        connection.received, connection.request = b"", _NOTHING
        if answer.is_last:
            self._drop(connection)
        else:
            self._free.append(connection)

    def _note_accepted(self, ids: list[bytes]) -> None:
        """Every so many orders, the last one is to be cancelled."""
        self.ids += ids
        self._owed += self._share * len(ids)
        if self._owed >= 1:
            self._owed -= 1
            self._to_cancel.append(ids[-1])

    def _note_refusal(self, answer: Answer) -> None:
        self.refused += 1
        self.failed += answer.status >= 500
        self.first_refusal = self.first_refusal or f"{answer.status} {answer.body[:200].decode(errors='replace')}"

    def _lose(self, connection: _Connection) -> None:
        """Handle a connection that the server closed. The outcome of its request is unknown."""
        if connection.request != _NOTHING:
            self.broken += 1
        else:
            self._free.remove(connection)
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _serve_waiting(self) -> None:
        while self._to_cancel and self._cancel(self._to_cancel[0]):
            self._to_cancel.popleft()
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
    bodies = Path(told["ORDERS_BODIES"]).read_bytes().splitlines()
    requests = [request_of(url.netloc, url.path, body) for body in bodies]
    due = arrivals(float(told["ORDERS_RATE"]), float(told["ORDERS_SECONDS"]), int(told["ORDERS_SEED"]))
    most, keyed, cancelled = int(told["ORDERS_CLIENTS"]), bool(told["ORDERS_KEYED"]), float(told["ORDERS_CANCELLED"])
    generator = Generator(url.geturl(), requests, most, keyed=keyed, cancelled=cancelled)
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
    (directory / "cancels").write_bytes(b"\n".join(generator.cancelled))
    (directory / "summary").write_text(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())
