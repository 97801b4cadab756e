"""Waits for verdicts: all waiting requests share one connection, and at most one question at a time.

product_consumer sends NOTIFY after each batch, and so does whatever parks an order. NOTIFY names no orders. So one
question asks PostgreSQL which of all the awaited orders are decided. It is asked at most 20 times a second, however
many requests wait and batches end. Without a notification it is asked once a second, because one may be lost with the
process that owed it. While no request waits, nothing is asked about orders.

Questions go over the connection that listens. Every two seconds the server is asked whether it still takes writes: one
that has become a standby sends no notifications, and shows verdicts late. If it does not take writes, or does not
answer, a new connection is made.

A client that is told of a verdict finds it in the list of the product's orders. product_consumer busts the list before
it notifies, but that is not enough. Another batch's notification, or the question once a second, may come between its
commit and its bust. So the lists are busted here once more, before any client is told.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import structlog

from database.channels import VERDICTS
from database.connection import Connection
from database.faults import Fault, describe, fault_of
from database.sessions import check_writable, count_fault, listening
from ingest_api.reads.stored_orders import DECIDED, Row, products_of
from pipeline.cache.order_list_cache import OrderListCache
from pipeline.contract.order_view import is_over
from pipeline.process import metrics
from pipeline.process.backoff import backoff_s
from pipeline.process.coroutines import set_within
from pipeline.process.health import Health
from pipeline.process.shares import Busy, Shares

log = structlog.get_logger()

PART = "verdicts"

# A twentieth of a second: what a batch of product_consumer takes anyway, its linger included.
_MIN_INTERVAL_S = 0.05
# PostgreSQL rests four times as long as it has worked on a question. So all that wait take no more than a fifth of one
# of its cores, however many they are. A thousand of them, none decided, are a question of 6 to 10 ms.
_REST = 4
_POLL_EVERY_S = 1.0
# So that a fault is reported within 5 s, a deadline of 2 s included.
_CHECK_EVERY_S = 2.0

Expected: TypeAlias = "asyncio.Future[Row | None]"
"""Done with the order as it is decided; with None if there is no use in waiting any more."""


class Verdicts:
    """Never raises for faults of PostgreSQL, Redis or the network: without them, a request waits in vain."""

    def __init__(
        self, database_url: str, lists: OrderListCache, health: Health, *, max_waiting: int, timeout_s: float
    ) -> None:
        """`max_waiting`: orders at once; requests past it, or past their client's share, do not wait. `timeout_s`: for
        PostgreSQL to answer.
        """
        self._url, self._lists, self._health = database_url, lists, health
        self._places, self._timeout_s = Shares("waits for verdicts", max_waiting), timeout_s
        self._waiting: dict[str, set[Expected]] = {}
        self._cancelling: set[Expected] = set()
        """Those that wait for more than the verdict PROCESSED."""
        self._count = 0
        self._is_stopping = False
        self._is_notified = False
        self._poll_at = self._check_at = 0.0
        self._awake = asyncio.Event()

    @contextmanager
    def expect(
        self, order_ids: Collection[str], client: str, *, cancels: bool = False
    ) -> Iterator[Mapping[str, Expected]]:
        """Wait for the verdicts within the block, or for none of them. Look inside the block whether they are there
        already: a look before it misses a verdict that falls between. `cancels`: wait until the orders can no longer be
        cancelled.
        """
        loop = asyncio.get_running_loop()
        expected: dict[str, Expected] = {order_id: loop.create_future() for order_id in order_ids}
        with ExitStack() as stack:
            try:
                if self._is_stopping:
                    raise Busy
                stack.enter_context(self._places.places(client, len(expected)))
            except Busy:
                for one in expected.values():
                    one.set_result(None)
            else:
                self._add(expected, cancels=cancels)
                stack.callback(self._remove, expected)
            yield expected

    async def end_with(self, stop: asyncio.Event) -> None:
        """Once `stop` is set, end all waits and begin no new ones: a stop takes as long as its last request."""
        await stop.wait()
        self._is_stopping = True
        for expected in [one for those in self._waiting.values() for one in those]:
            _tell(expected, None)

    async def run(self) -> None:
        """Listen and ask, until cancelled."""
        failed = 0
        while True:
            try:
                async with listening(
                    self._url,
                    "ingest_api verdicts",
                    VERDICTS,
                    self._on_notification,
                    self._awake.set,
                    timeout_s=self._timeout_s,
                ) as connection:
                    self._health.up(PART)
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
            await set_within(min(rest_s, _CHECK_EVERY_S) if self._waiting else _CHECK_EVERY_S, self._awake)
        raise ConnectionError("the connection was lost")

    async def _check(self, connection: Connection) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._check_at:
            self._check_at = now + _CHECK_EVERY_S
            await check_writable(connection)

    async def _ask(self, connection: Connection, because: str) -> None:
        """Ask one question for all that wait, then sleep until the next one may be asked."""
        loop = asyncio.get_running_loop()
        began, self._poll_at, self._is_notified = loop.time(), loop.time() + _POLL_EVERY_S, False
        metrics.VERDICT_ROUNDS.labels(because).inc()
        # Of several orders that one request waits for, those that are decided wait for the others.
        awaited = [it for it, those in self._waiting.items() if not all(one.done() for one in those)]
        rows = await connection.fetch(DECIDED, awaited)
        took_s = loop.time() - began
        news = [(row, those) for row in rows if (those := self._told_by(row))]
        await self._lists.bust(products_of(row for row, _ in news))
        for row, those in news:
            for expected in those:
                _tell(expected, row)
        interval_s = min(_POLL_EVERY_S, max(_MIN_INTERVAL_S, (1 + _REST) * took_s))
        await asyncio.sleep(began + interval_s - loop.time())

    def _told_by(self, row: Row) -> set[Expected]:
        """Those that have waited for this state of the order."""
        those = self._waiting.get(row["id"], set())
        return set(those) if is_over(row["status"], final=row["final"]) else those - self._cancelling

    def _on_notification(self) -> None:
        if self._waiting:
            self._is_notified = True
            self._awake.set()

    def _add(self, expected: Mapping[str, Expected], *, cancels: bool) -> None:
        if not self._waiting:
            self._poll_at, self._is_notified = asyncio.get_running_loop().time() + _POLL_EVERY_S, False
            self._awake.set()
        for order_id, one in expected.items():
            self._waiting.setdefault(order_id, set()).add(one)
        if cancels:
            self._cancelling.update(expected.values())
        self._count += len(expected)
        metrics.VERDICT_WAITERS.set(self._count)

    def _remove(self, expected: Mapping[str, Expected]) -> None:
        self._cancelling.difference_update(expected.values())
        for order_id, one in expected.items():
            those = self._waiting[order_id]
            those.discard(one)
            if not those:
                del self._waiting[order_id]
        self._count -= len(expected)
        metrics.VERDICT_WAITERS.set(self._count)


def _tell(expected: Expected, row: Row | None) -> None:
    if not expected.done():
        expected.set_result(row)
