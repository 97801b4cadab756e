"""Publishing with confirms, and the group commit on top of it.

    Publisher     one message, one Outcome: confirmed, or how not
    GroupCommit   while one message is in flight, what arrives collects; when it returns, all of that is the next
    message

One order alone waits for nobody; ten thousand share one fsync.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum

import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from pipeline import metrics
from pipeline.broker import BrokerLost, describe, is_broker_fault, keep_connected, when_lost
from pipeline.health import Health
from pipeline.orders import SCHEMA, join_orders
from pipeline.settings import PipelineSettings

log = structlog.get_logger()


class Outcome(Enum):
    """What became of a message."""

    CONFIRMED = "confirmed"
    """Routed, and fsynced by a quorum of the queue's nodes."""
    REFUSED = "refused"
    """The broker said no: the queue is full. Not stored."""
    UNROUTABLE = "unroutable"
    """No queue is bound to the key. Not stored."""
    NOT_SENT = "not_sent"
    """There was no broker to send it to, or it had said that it takes nothing. Not stored."""
    UNKNOWN = "unknown"
    """Sent, and the answer never came. May be stored."""


Declare = Callable[[AbstractChannel], Awaitable[object]]


class Publisher:
    """A connection that only publishes. Blocked or broken, it says so at once; it never waits past its deadline."""

    def __init__(self, settings: PipelineSettings, health: Health, part: str, declare: Declare) -> None:
        """`part`: what readiness calls this connection. `declare`: run on every channel before its first publish."""
        self._settings, self._health, self._part, self._declare = settings, health, part, declare
        self._connection: AbstractConnection | None = None
        self._channel: aiormq.Channel | None = None
        self._lost: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        await keep_connected(self._settings, self._health, self._part, self._session)

    @property
    def is_open(self) -> bool:
        """Whether a message can be sent now: False when blocked, or within two heartbeats of losing the broker."""
        return self._channel is not None and not self._is_blocked()

    async def publish(
        self, exchange: str, key: str, body: bytes, *, orders: int = 0, timeout_s: float | None = None
    ) -> Outcome:
        """Send one persistent message and wait for its confirm. Never raises for what the broker or the network does.

        `orders`: how many the body holds, told in a header so that a reader can bound its batches without decoding.
        `timeout_s`: for the confirm, instead of the setting's.
        """
        channel = self._channel
        if channel is None or self._is_blocked():
            return Outcome.NOT_SENT
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(timeout_s or self._settings.confirm_timeout_s):
                # wait=False skips only the wait for the socket's buffer to drain; the confirm is still awaited.
                await channel.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=key,
                    properties=_properties(orders),
                    mandatory=True,
                    wait=False,
                )
        except PublishError:  # a DeliveryError too, so it comes first
            return Outcome.UNROUTABLE
        except DeliveryError:
            return Outcome.REFUSED
        except BaseException as error:
            if not is_broker_fault(error):
                raise
            self._give_up(channel, error)
            return Outcome.UNKNOWN
        metrics.CONFIRM_SECONDS.labels(exchange).observe(loop.time() - started)
        return Outcome.CONFIRMED

    async def _session(self, connection: AbstractConnection) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await self._declare(channel)
        self._lost = when_lost(connection, channel)
        underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, aiormq.Channel)
        self._connection, self._channel = connection, underlay
        self._health.up(self._part)
        try:
            await self._lost
        finally:
            self._connection = self._channel = None

    def _is_blocked(self) -> bool:
        """Whether the broker has sent connection.blocked (an alarm for memory or disk) and not yet unblocked."""
        if self._connection is None or self._connection.transport is None:
            return True
        # The client tells it only through a coroutine that returns at once when all is well.
        ready = self._connection.transport.connection.ready()
        try:
            ready.send(None)
        except StopIteration:
            return False
        finally:
            ready.close()
        return True

    def _give_up(self, channel: aiormq.Channel, error: BaseException) -> None:
        """After a publish without an answer nothing on this channel can be trusted: throw the connection away.

        Except when the broker is blocked: a new connection would be blocked as well, at its first publish.
        """
        log.error("publish without an answer", part=self._part, error=describe(error), blocked=self._is_blocked())
        if self._channel is channel and not self._is_blocked():
            self._channel = None
            if self._lost is not None and not self._lost.done():
                self._lost.set_exception(BrokerLost(f"publish failed: {describe(error)}"))


def _properties(orders: int) -> Basic.Properties:
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        headers={"schema": SCHEMA, "orders": orders} if orders else {"schema": SCHEMA},
    )


# ── group commit


class Full(Exception):
    """More is waiting for confirms than the process may hold. Nothing was taken."""


class Unavailable(Exception):
    """The broker is away or takes nothing. Nothing was taken."""


class _Group:
    """Orders that will be one message, and who waits for each."""

    __slots__ = ("deadline", "encoded", "is_closed", "size_bytes", "waiters")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.encoded: list[bytes] = []
        self.waiters: list[asyncio.Future[Outcome]] = []
        self.size_bytes = 0
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
        timeout_s: float,
    ) -> None:
        """`timeout_s`: from an order's arrival to its outcome, at the most."""
        self._publisher, self._exchange, self._key = publisher, exchange, key
        self._max_group_orders, self._max_group_bytes = max_group_orders, max_group_bytes
        self._max_waiting_orders, self._max_waiting_bytes = max_waiting_orders, max_waiting_bytes
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._groups: deque[_Group] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiting_orders = self._waiting_bytes = 0
        metrics.ORDERS_IN_FLIGHT.set_function(lambda: self._waiting_orders)
        metrics.BYTES_IN_FLIGHT.set_function(lambda: self._waiting_bytes)

    def submit(self, encoded: bytes) -> asyncio.Future[Outcome]:
        """Add one encoded order to the next message. The future ends in its outcome, in time, and never in an error.

        Raises Unavailable or Full, in which case the order was not taken. To cancel the future takes nothing back.
        """
        size = len(encoded)
        if not self._fits(1, size):
            raise Full
        group = self._open_group(size)
        group.encoded.append(encoded)
        group.size_bytes += size
        self._waiting_orders += 1
        self._waiting_bytes += size
        waiter = self._loop.create_future()
        group.waiters.append(waiter)
        return waiter

    def submit_all(self, encoded: list[bytes]) -> asyncio.Future[Outcome]:
        """Make `encoded` one message, however large, and one outcome. Raises Unavailable or Full: none was taken."""
        size = sum(map(len, encoded))
        if not self._fits(len(encoded), size):
            raise Full
        group = self._new_group()
        group.encoded += encoded
        group.size_bytes = size
        # Nothing is added to it, so what comes meanwhile does not have to wait for a message of this size.
        group.is_closed = True
        self._waiting_orders += len(encoded)
        self._waiting_bytes += size
        waiter = self._loop.create_future()
        group.waiters.append(waiter)
        return waiter

    async def run(self) -> None:
        """Publish group after group until cancelled. Run it N times at once to have N messages in flight."""
        while True:
            while not self._groups:
                self._arrived.clear()
                await self._arrived.wait()
            await self._publish(self._groups.popleft())

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
        # Asked once for each message, not for each order: should the broker go now, the message ends as NOT_SENT.
        if not self._publisher.is_open:
            raise Unavailable
        group = _Group(self._loop.time() + self._timeout_s)
        self._groups.append(group)
        self._arrived.set()
        self._idle.clear()
        return group

    async def _publish(self, group: _Group) -> None:
        size = len(group.encoded)
        if group.deadline <= self._loop.time():
            outcome = Outcome.NOT_SENT  # it waited behind a message that got no answer
        else:
            body = join_orders(group.encoded)
            outcome = await self._publisher.publish(
                self._exchange, self._key, body, orders=size, timeout_s=group.deadline - self._loop.time()
            )
        self._count(group, outcome)
        group.settle(outcome)

    def _count(self, group: _Group, outcome: Outcome) -> None:
        size = len(group.encoded)
        self._waiting_orders -= size
        self._waiting_bytes -= group.size_bytes
        metrics.GROUP_SIZE.observe(size)
        if outcome is Outcome.CONFIRMED:
            metrics.ORDERS_ACCEPTED.inc(size)
        if not self._waiting_orders:
            self._idle.set()
