"""The group commit: many orders, one message, one confirm.

While one message is in flight, arrivals collect; when its confirm returns, all of them are the next message. One order
alone waits for nobody; ten thousand share one fsync. A second message joins one in flight only when it is worth its
cost: it is large, or a slow broker keeps it waiting.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram

from ingest_api.intake.drain_rate import DrainRate, retry_after_s
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract.orders import SCHEMA, join_orders
from pipeline.process import metrics


class GroupMetrics(NamedTuple):
    """What a group commit counts."""

    waiting: Gauge
    waiting_bytes: Gauge | None
    size: Histogram | None
    confirmed: Counter


OF_ORDERS = GroupMetrics(metrics.ORDERS_IN_FLIGHT, metrics.BYTES_IN_FLIGHT, metrics.GROUP_SIZE, metrics.ORDERS_ACCEPTED)
OF_CANCELLATIONS = GroupMetrics(metrics.CANCELLATIONS_IN_FLIGHT, None, None, metrics.CANCELLATIONS_ACCEPTED)


class Full(Exception):
    """More is waiting for confirms than the process may hold. Nothing was taken."""


class Unavailable(Exception):
    """The broker is away or takes nothing. Nothing was taken."""


class _Group:
    """Orders that will be one message, and the futures that wait for its outcome."""

    __slots__ = ("deadline", "encoded", "is_closed", "schema", "size_bytes", "waiters")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.encoded: list[bytes] = []
        self.waiters: list[asyncio.Future[Outcome]] = []
        self.size_bytes = 0
        self.schema = SCHEMA
        """The version that its message says: the latest that one of its orders needs."""
        self.is_closed = False

    def settle(self, outcome: Outcome) -> None:
        for waiter in self.waiters:
            if not waiter.done():  # its request was cancelled; the order itself goes on
                waiter.set_result(outcome)


class GroupCommit:
    """Turns many orders into few messages. Bounded: it refuses before it swallows."""

    def __init__(
        self,
        publisher: Publisher,
        exchange: str,
        key: str,
        *,
        max_group_orders: int,
        max_group_bytes: int,
        max_waiting_orders: int,
        max_waiting_bytes: int,
        overlap_orders: int,
        overlap_after_s: float,
        timeout_s: float,
        on_confirmed: Callable[[list[bytes], float], None] = lambda _orders, _now: None,
        counts: GroupMetrics = OF_ORDERS,
    ) -> None:
        """`overlap_orders`, `overlap_after_s`: a message of this many orders, or this long after the one before, goes
        beside those in flight. `timeout_s`: from an order's arrival to its outcome, at the most. `on_confirmed`: called
        once for each confirmed message, with its encoded orders and the loop's time.
        """
        self._publisher, self._exchange, self._key = publisher, exchange, key
        self._max_group_orders, self._max_group_bytes = max_group_orders, max_group_bytes
        self._max_waiting_orders, self._max_waiting_bytes = max_waiting_orders, max_waiting_bytes
        self._overlap_orders, self._overlap_after_s = overlap_orders, overlap_after_s
        self._timeout_s = timeout_s
        self._on_confirmed, self._counts = on_confirmed, counts
        self._loop = asyncio.get_running_loop()
        self._groups: deque[_Group] = deque()
        self._changed = asyncio.Event()
        self._in_flight, self._last_sent = 0, 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiting_orders = self._waiting_bytes = 0
        self._rate = DrainRate()
        counts.waiting.set_function(lambda: self._waiting_orders)
        if counts.waiting_bytes is not None:
            counts.waiting_bytes.set_function(lambda: self._waiting_bytes)

    def submit(self, encoded: bytes, schema: int = SCHEMA) -> asyncio.Future[Outcome]:
        """Add one encoded order to the next message. The future yields the outcome, in time, and never an error.

        `schema`: the version that a message with this order says, at least.

        Raises Unavailable or Full if the order was not taken. Cancelling the future takes nothing back.
        """
        size = len(encoded)
        if not self._fits(1, size):
            raise Full
        group = self._open_group(size)
        group.encoded.append(encoded)
        if schema > group.schema:
            group.schema = schema
        if len(group.encoded) == self._overlap_orders:
            self._changed.set()
        group.size_bytes += size
        self._waiting_orders += 1
        self._waiting_bytes += size
        waiter = self._loop.create_future()
        group.waiters.append(waiter)
        return waiter

    def submit_all(self, encoded: list[bytes], schema: int = SCHEMA) -> asyncio.Future[Outcome]:
        """Make `encoded` one message, however large, with one outcome. Raises Unavailable or Full: none was taken."""
        size = sum(map(len, encoded))
        if not self._fits(len(encoded), size):
            raise Full
        group = self._new_group()
        group.encoded += encoded
        group.schema = schema
        group.size_bytes = size
        # Nothing is added to it, so later arrivals do not have to wait for a message of this size.
        group.is_closed = True
        self._waiting_orders += len(encoded)
        self._waiting_bytes += size
        waiter = self._loop.create_future()
        group.waiters.append(waiter)
        return waiter

    async def run(self) -> None:
        """Publish group after group until cancelled. Run it N times at once to have up to N messages in flight."""
        while True:
            group = await self._next_group()
            self._in_flight, self._last_sent = self._in_flight + 1, self._loop.time()
            try:
                await self._publish(group)
            finally:
                self._in_flight -= 1
                self._changed.set()

    def has_room(self, orders: int) -> bool:
        """Whether so many more may wait now. Callers ask before they do any work on them."""
        return self._waiting_orders + orders <= self._max_waiting_orders

    def retry_after_s(self) -> int:
        """When to retry what was refused, or not confirmed: in 1 to 30 s, by the measured rate of confirms."""
        return retry_after_s(self._rate.wait_s(self._waiting_orders, self._loop.time()))

    async def drain(self) -> None:
        """Wait until every order that was submitted has its outcome."""
        await self._idle.wait()

    def _fits(self, orders: int, size: int) -> bool:
        return (
            self._waiting_orders + orders <= self._max_waiting_orders
            and self._waiting_bytes + size <= self._max_waiting_bytes
        )

    def _open_group(self, size: int) -> _Group:
        if self._groups:
            last = self._groups[-1]
            fits = len(last.encoded) < self._max_group_orders and last.size_bytes + size <= self._max_group_bytes
            if fits and not last.is_closed:
                return last
        return self._new_group()

    def _new_group(self) -> _Group:
        # Asked once for each message, not for each order. If the broker goes later, the message ends as NOT_SENT.
        now = self._loop.time()
        if not self._publisher.is_open:
            self._rate.failed(now)
            raise Unavailable
        group = _Group(now + self._timeout_s)
        self._groups.append(group)
        self._changed.set()
        self._idle.clear()
        return group

    async def _next_group(self) -> _Group:
        while True:
            due = self._due(self._groups[0]) if self._groups else None
            if due is not None and due <= self._loop.time():
                return self._groups.popleft()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._changed.wait()

    def _due(self, group: _Group) -> float:
        """Loop time until which a group goes on collecting; 0: it goes at once."""
        is_large = group.is_closed or len(group.encoded) >= self._overlap_orders
        return 0.0 if is_large or not self._in_flight else self._last_sent + self._overlap_after_s

    async def _publish(self, group: _Group) -> None:
        started, size = self._loop.time(), len(group.encoded)
        if group.deadline <= started:
            outcome = Outcome.NOT_SENT  # it waited behind a message that got no answer
        else:
            body = join_orders(group.encoded)
            outcome = await self._publisher.publish(
                self._exchange, self._key, body, orders=size, schema=group.schema, timeout_s=group.deadline - started
            )
        self._count(group, outcome)
        self._learn(group, outcome, started)
        group.settle(outcome)

    def _count(self, group: _Group, outcome: Outcome) -> None:
        size = len(group.encoded)
        self._waiting_orders -= size
        self._waiting_bytes -= group.size_bytes
        if outcome is not Outcome.NOT_SENT and self._counts.size is not None:
            self._counts.size.observe(size)
        if outcome is Outcome.CONFIRMED:
            self._counts.confirmed.inc(size)
            self._on_confirmed(group.encoded, self._loop.time())
        if not self._waiting_orders:
            self._idle.set()

    def _learn(self, group: _Group, outcome: Outcome, started: float) -> None:
        """Tell the drain rate of an outcome."""
        if outcome is Outcome.CONFIRMED:
            self._rate.confirmed(len(group.encoded), started, self._loop.time())
        else:
            self._rate.failed(group.deadline - self._timeout_s)
