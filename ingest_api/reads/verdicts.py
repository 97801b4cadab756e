"""Waiting for verdicts: all who wait, one connection, and at most one question at a time.

product_consumer says NOTIFY after each batch, and whoever parks an order does. It names no orders; so, for all who wait
together, PostgreSQL is asked which of theirs are decided: at most 20 times a second, however many wait and however many
batches there are, and once a second when nothing is heard, for a notification that was lost with the process that owed
it. While nobody waits, nothing is asked about orders.

Questions go over the connection that listens. Every two seconds the server is asked whether it still takes writes: one
that has become a standby notifies nobody, and shows what was decided late. If it does not, or does not answer, a new
connection is made.

Who is told of a verdict finds it in the list of the product's orders. product_consumer busts the list before it
notifies, but that is not enough: another batch's notification, or the second's turn, may come between its commit and
its bust. So the lists are busted here once more, before anybody is told.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import TypeAlias

import structlog

from database.channels import VERDICTS
from database.connection import Connection
from database.faults import Fault, describe, fault_of
from database.sessions import check_writable, count_fault, open_session
from ingest_api.reads.stored_orders import DECIDED, Row, products_of
from pipeline.broker.connection import backoff_s
from pipeline.cache.order_list_cache import OrderListCache
from pipeline.process import metrics
from pipeline.process.health import Health
from pipeline.process.shares import Busy, Shares

log = structlog.get_logger()

PART = "verdicts"

# A twentieth of a second: what a batch of product_consumer takes anyway, its linger included.
_MIN_INTERVAL_S = 0.05
# And PostgreSQL rests four times as long as it has worked on a question, so that all who wait take no more than a fifth
# of one of its cores, however many they are. A thousand, of whom none is decided, are a question of 6 to 10 ms.
_REST = 4
_POLL_EVERY_S = 1.0
# So that what is wrong is told within 5 s, a deadline of 2 s included.
_CHECK_EVERY_S = 2.0

Expected: TypeAlias = "asyncio.Future[Row | None]"
"""Done with the order as it is decided; with None if there is no use in waiting any more."""


class Verdicts:
    """Never raises for what PostgreSQL, Redis or the network does: without them, the wait is for nothing."""

    def __init__(
        self, database_url: str, lists: OrderListCache, health: Health, *, max_waiting: int, timeout_s: float
    ) -> None:
        """`max_waiting`: requests at once; those past it, or past their client's share, do not wait. `timeout_s`: for
        PostgreSQL to answer.
        """
        self._url, self._lists, self._health = database_url, lists, health
        self._places, self._timeout_s = Shares("waits for verdicts", max_waiting), timeout_s
        self._waiting: dict[str, set[Expected]] = {}
        self._count = 0
        self._is_stopping = False
        self._is_notified = False
        self._poll_at = self._check_at = 0.0
        self._awake = asyncio.Event()

    @contextmanager
    def expect(self, order_id: str, client: str) -> Iterator[Expected]:
        """Within the block, the verdict is waited for. Look only then whether it is there already: whoever looks first
        misses the verdict that falls between.
        """
        expected: Expected = asyncio.get_running_loop().create_future()
        with ExitStack() as stack:
            try:
                if self._is_stopping:
                    raise Busy
                stack.enter_context(self._places.places(client))
            except Busy:
                expected.set_result(None)
            else:
                self._add(order_id, expected)
                stack.callback(self._remove, order_id, expected)
            yield expected

    async def end_with(self, stop: asyncio.Event) -> None:
        """Once `stop` is set, nobody waits any longer, nor begins to: a stop takes as long as its last request."""
        await stop.wait()
        self._is_stopping = True
        for expected in [one for those in self._waiting.values() for one in those]:
            _tell(expected, None)

    async def run(self) -> None:
        """Listen and ask, until cancelled."""
        failed = 0
        while True:
            try:
                async with self._listening() as connection:
                    failed = 0
                    while True:
                        await self._ask(connection, await self._turn(connection))
            except Exception as error:
                if fault_of(error) is not Fault.PASSING:
                    raise
                count_fault(error)
                self._health.down(PART, f"PostgreSQL: {describe(error)}")
                log.warning("not listening for verdicts", error=describe(error))
            await asyncio.sleep(backoff_s(failed, last_s=_POLL_EVERY_S))
            failed += 1

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[Connection]:
        connection = await open_session(
            self._url, "ingest_api verdicts", timeout_s=self._timeout_s, command_timeout_s=self._timeout_s
        )
        try:
            connection.add_termination_listener(lambda _: self._awake.set())
            await connection.add_listener(VERDICTS, self._on_notification)
            self._health.up(PART)
            yield connection
        finally:
            connection.terminate()

    async def _turn(self, connection: Connection) -> str:
        """Wait until it is time to ask; returns why. Raises ConnectionError if the connection is lost, and what
        `check_writable` raises.
        """
        while not connection.is_closed():
            await self._check(connection)
            rest_s = self._poll_at - asyncio.get_running_loop().time()
            if self._waiting and self._is_notified:
                return "notification"
            if self._waiting and rest_s <= 0:
                return "poll"
            self._awake.clear()
            await _set_within(min(rest_s, _CHECK_EVERY_S) if self._waiting else _CHECK_EVERY_S, self._awake)
        raise ConnectionError("the connection was lost")

    async def _check(self, connection: Connection) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._check_at:
            self._check_at = now + _CHECK_EVERY_S
            await check_writable(connection)

    async def _ask(self, connection: Connection, because: str) -> None:
        """One question for all who wait, and the rest of the time until there may be another."""
        loop = asyncio.get_running_loop()
        began, self._poll_at, self._is_notified = loop.time(), loop.time() + _POLL_EVERY_S, False
        metrics.VERDICT_ROUNDS.labels(because).inc()
        rows = await connection.fetch(DECIDED, list(self._waiting))
        took_s = loop.time() - began
        await self._lists.bust(products_of(rows))
        for row in rows:
            for expected in self._waiting.get(row["id"], ()):
                _tell(expected, row)
        interval_s = min(_POLL_EVERY_S, max(_MIN_INTERVAL_S, (1 + _REST) * took_s))
        await asyncio.sleep(began + interval_s - loop.time())

    def _on_notification(self, *_: object) -> None:
        if self._waiting:
            self._is_notified = True
            self._awake.set()

    def _add(self, order_id: str, expected: Expected) -> None:
        if not self._waiting:
            self._poll_at, self._is_notified = asyncio.get_running_loop().time() + _POLL_EVERY_S, False
            self._awake.set()
        self._waiting.setdefault(order_id, set()).add(expected)
        self._count += 1
        metrics.VERDICT_WAITERS.set(self._count)

    def _remove(self, order_id: str, expected: Expected) -> None:
        those = self._waiting[order_id]
        those.discard(expected)
        if not those:
            del self._waiting[order_id]
        self._count -= 1
        metrics.VERDICT_WAITERS.set(self._count)


def _tell(expected: Expected, row: Row | None) -> None:
    if not expected.done():
        expected.set_result(row)


async def _set_within(seconds: float | None, event: asyncio.Event) -> None:
    """Wait for `event`, but not longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
