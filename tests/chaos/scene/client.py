"""Open-loop clients: they arrive at their own pace, whatever happens to earlier requests.

Each order is sent when it is due, on a free or new connection. So a service that hangs meets more and more of them, as
in production.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import cast
from urllib.parse import urlsplit

import httptools

from proof.bodies import id_of, problem_name
from tests.chaos.scene.attempts import TIMEOUT, Attempt, Verdict, WantedOrder, intents_of
from tests.support.brokers.broker import running_task
from tests.support.time.conditions import eventually

# Longer than any answer may take (scene.DEADLINE_S), so that a late answer is recorded as late.
_PATIENCE_S = 15.0
# Resolution of the pace: at 1,000 orders/s, five leave at a time.
_TICK_S = 0.005
# How many orders of unknown outcome are retried at once.
_RETRY_EVERY_S = 0.5
# Less than the service's keep-alive timeout, so that it never closes a connection while we send.
_REUSE_S = 20.0


class Client:
    """Sends orders at a pace and records the answers."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = parts.hostname, parts.port
        self._host = parts.netloc
        self.rests = False
        """While True, orders that are due are not sent."""
        self.attempts: list[Attempt] = []
        self.open: dict[Attempt, _Connection | None] = {}
        """Requests without an answer, oldest first; None: not connected yet."""
        self._idle: list[_Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()

    async def pace(self, orders: Iterator[WantedOrder], per_s: float) -> None:
        """Send orders at `per_s` until cancelled, or until there are no more."""
        started, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - started) * per_s)
            for wanted in islice(orders, due - sent):
                if not self.rests:
                    self.send(wanted)
            sent = due
            self._give_up_on_the_late()
            await asyncio.sleep(_TICK_S)  # a pace; no test waits for this

    def send(self, wanted: WantedOrder) -> Attempt:
        """Send one order now."""
        attempt = Attempt(wanted)
        self.attempts.append(attempt)
        self.open[attempt] = None
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh():
                connection.send(attempt, wanted.request(self._host))
                return attempt
            connection.close()
        connecting = asyncio.create_task(self._send_on_new(attempt))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)
        return attempt

    async def answered(self) -> None:
        """Wait until each request is answered or given up."""

        def all_are() -> bool:
            self._give_up_on_the_late()
            return not self.open

        await eventually(all_are, 2 * _PATIENCE_S)

    async def retry_the_unknown(self, within_s: float = 30) -> int:
        """Retry each order of unknown outcome with its key until the outcome is known. Returns how many there were."""
        unknown = [it.wanted for it in intents_of(self.attempts) if it.verdict is Verdict.UNKNOWN]
        assert all(wanted.key for wanted in unknown), "an order without a key cannot be sent again"

        async def none_is_left() -> bool:
            left = [it.wanted for it in intents_of(self.attempts) if it.verdict is Verdict.UNKNOWN]
            for wanted in left:
                self.send(wanted)
            await self.answered()
            return not left

        await eventually(none_is_left, within_s, _RETRY_EVERY_S)
        return len(unknown)

    def close(self) -> None:
        for connection in [*self._idle, *self.open.values()]:
            if connection is not None:
                connection.abort("closed")
        self._idle.clear()

    def ended(self, attempt: Attempt, status: int, told: str) -> None:
        if self.open.pop(attempt, None) is not None or attempt.ended_s is None:
            attempt.end(status, told)

    def free(self, connection: "_Connection") -> None:
        self._idle.append(connection)

    def gone(self, connection: "_Connection") -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    async def _send_on_new(self, attempt: Attempt) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self), *self._address
                )
        except TimeoutError:
            self.ended(attempt, 0, TIMEOUT)
            return
        except OSError:
            self.ended(attempt, 0, "refused")
            return
        connection.send(attempt, attempt.wanted.request(self._host))

    def _give_up_on_the_late(self) -> None:
        late_s = time.time() - _PATIENCE_S
        for attempt, connection in list(islice(self.open.items(), 100)):
            if attempt.sent_s > late_s:
                return
            if connection is None:
                self.ended(attempt, 0, TIMEOUT)
            else:
                connection.abort(TIMEOUT)


class _Connection(asyncio.Protocol):
    """A keep-alive connection with at most one request in flight. httptools calls the `on_` methods."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._attempt: Attempt | None = None
        self._body = b""
        self._why = "reset"
        self._used_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def is_fresh(self) -> bool:
        return not self._transport.is_closing() and time.monotonic() - self._used_s < _REUSE_S

    def send(self, attempt: Attempt, request: bytes) -> None:
        if attempt.ended_s is not None:  # given up while this connected
            self.close()
            return
        if self._transport.is_closing():
            self._client.ended(attempt, 0, "reset")
            return
        self._attempt, self._body = attempt, b""
        self._client.open[attempt] = self
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort("no HTTP")

    def connection_lost(self, _: Exception | None) -> None:
        self._client.gone(self)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._client.ended(attempt, 0, self._why)

    def close(self) -> None:
        self._transport.close()

    def abort(self, why: str) -> None:
        self._why = why
        self._transport.abort()

    def on_body(self, chunk: bytes) -> None:
        self._body += chunk

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        attempt, self._attempt = self._attempt, None
        if attempt is None:  # bytes that answer no request
            self.abort("reset")
            return
        told = id_of(self._body) if 200 <= status < 300 else problem_name(self._body)
        self._used_s = time.monotonic()
        self._client.ended(attempt, status, told.decode())
        if self._parser.should_keep_alive():
            self._client.free(self)
        else:
            self._transport.close()


@contextlib.asynccontextmanager
async def ordering(client: Client, orders: Iterator[WantedOrder], per_s: float) -> AsyncIterator[None]:
    """Send orders at `per_s` for the block, then wait for the answers."""
    async with running_task(client.pace(orders, per_s)):
        yield
    await client.answered()
