"""Publishes messages with publisher confirms: one message, one Outcome. An unknown outcome is one of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from pipeline.broker.connection import (
    BrokerLost,
    answering,
    describe,
    is_broker_fault,
    keep_connected,
    patience_s,
    when_lost,
)
from pipeline.broker.refusals import Refusals
from pipeline.contract.orders import SCHEMA
from pipeline.contract.topology import OpenChannel
from pipeline.process import metrics
from pipeline.process.health import Health
from pipeline.process.settings import BrokerSettings

log = structlog.get_logger()

# The client does not report when the broker blocks or unblocks a connection, so readiness polls.
_BLOCKED_INTERVAL_S = 0.5
# The broker returns an unroutable message at once. Declare everything again at most this often.
_DECLARE_EVERY_S = 1.0
_TELL_REFUSALS_EVERY_S = 10.0
# While an empty queue refuses, send a message without orders this long after the last refusal. A broker at fault takes
# readiness down, so there may be no orders to send, and only a confirm shows that the broker works again.
_TRY_EVERY_S = 1.0
_NO_ORDERS = b"[]"
# Lines use channels 1 and 2. Each other use has its own number: a number that the client chose may be one of these.
_ASKING_CHANNEL, _LOOKING_CHANNEL, _DECLARING_CHANNEL = 3, 4, 5
_LOOK_WITHIN_S = 1.0
# A channel of the broker remembers that a queue refuses. The queue's leader tells it once when that ends, and may be
# gone by then. A channel that RabbitMQ 3.10 opened while there was no leader asks a missing node for ever. It refused
# everything, with empty queues, until the service was restarted. A new channel asks anew. But the queue may really be
# full, so each next channel is opened later. Each costs the broker a log entry, and the client 4 kB for the life of
# the connection (aiormq 7.2 never removes what waits for `closing`).
_FIRST_REFUSED_S, _LAST_REFUSED_S = 1.0, 60.0


class Outcome(Enum):
    """What became of a message."""

    CONFIRMED = "confirmed"
    """Routed, and fsynced by a quorum of the queue's nodes."""
    REFUSED = "refused"
    """The broker sent a nack: the queue is full. Not stored."""
    BROKEN = "broken"
    """The broker sent a nack although the queue has room. Not stored."""
    UNROUTABLE = "unroutable"
    """No queue is bound to the key. Not stored. Everything is declared again, so the next message may be."""
    NOT_SENT = "not_sent"
    """No broker is connected, or it has blocked the connection. Not stored."""
    UNKNOWN = "unknown"
    """Sent, but no answer came. May be stored."""


Declare = Callable[[AbstractChannel], Awaitable[AbstractQueue | None]]
"""Returns the queue that takes the messages, or None if unroutable messages are no fault."""


Meet = Callable[[OpenChannel], Awaitable[None]]


@dataclass(eq=False)
class _Line:
    """A channel to publish on, with what is known of it."""

    channel: AbstractChannel
    underlay: aiormq.Channel
    lost: asyncio.Future[None]
    """Ends when the channel does, with what ended it."""
    opened_at: float
    """When it was requested: loop time."""
    waiting: int = 0
    """Messages that wait for their confirm."""
    refused_since: float | None = None
    """When a message was first refused since one was confirmed: loop time."""
    replaced: int = 0
    """Channels replaced in a row, without a confirm in between."""

    def is_stuck(self) -> bool:
        """Whether it has refused for so long that another channel should be tried."""
        return self.has_refused_for(min(_LAST_REFUSED_S, _FIRST_REFUSED_S * 2 ** min(self.replaced, 16)))

    def has_refused_for(self, time_s: float) -> bool:
        return self.refused_since is not None and asyncio.get_running_loop().time() >= self.refused_since + time_s


class Publisher:
    """Publishes on its own connection. Fails at once if that is blocked or broken; never waits past its deadline."""

    def __init__(
        self, settings: BrokerSettings, health: Health, part: str, declare: Declare, meet: Meet | None = None
    ) -> None:
        """`part`: this connection's name in readiness.

        `declare`: runs before the first publish of each connection, and again after an unroutable message.
        `meet`: runs once on each connection, before `declare`.
        """
        self._settings, self._health, self._part, self._declare = settings, health, part, declare
        self._meet = meet
        self._connection: AbstractConnection | None = None
        self._line: _Line | None = None
        self._is_unroutable, self._declared_at = False, 0.0
        self._tells_refusals_at = 0.0
        self._queue: str | None = None
        self._refusals, self._refused_by = Refusals(), ("", "")
        self._asking: AbstractChannel | None = None
        self._looking: AbstractChannel | None = None
        self._nudge: asyncio.Future[None] | None = None
        self._is_proven, self._in_vain = False, 0

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        await keep_connected(self._settings, self._health, self._part, self._session)

    @property
    def is_open(self) -> bool:
        """Whether a message can be sent now: False if blocked, and within two heartbeats of losing the broker."""
        return self._line is not None and not self._is_blocked()

    async def look(self) -> tuple[int, int] | None:
        """The ready messages and the consumers of the queue that takes ours; None: no broker answers.

        Unacknowledged messages are not counted as ready.
        """
        connection = self._connection
        if connection is None or self._is_blocked():
            return None
        try:
            async with asyncio.timeout(_LOOK_WITHIN_S):
                if self._looking is None or self._looking.is_closed:
                    self._looking = await _channel(connection, _LOOKING_CHANNEL)
                queue = await self._declare(self._looking)
        except BaseException as error:
            if not isinstance(error, TimeoutError) and not is_broker_fault(error):
                raise
            return None
        if queue is None or queue.declaration_result.message_count is None:
            return None
        return queue.declaration_result.message_count, queue.declaration_result.consumer_count or 0

    async def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        orders: int = 0,
        schema: int | None = SCHEMA,
        timeout_s: float | None = None,
    ) -> Outcome:
        """Send one persistent message and wait for its confirm. Never raises for a fault of the broker or the network.

        `orders`: how many the body holds, sent in a header so that a reader can bound its batches without decoding.
        `schema`: the body's version, if it is not ours; None: send none. `timeout_s`: for the confirm, in place of
        `confirm_timeout_s`.
        """
        line = self._line
        if line is None or self._is_blocked():
            return Outcome.NOT_SENT
        loop = asyncio.get_running_loop()
        started = loop.time()
        line.waiting += 1
        try:
            async with asyncio.timeout(self._patience_s(timeout_s or self._settings.confirm_timeout_s)):
                # wait=False skips only the wait for the socket's buffer to drain; the confirm is still awaited.
                await line.underlay.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=key,
                    properties=_properties(orders, schema),
                    mandatory=True,
                    wait=False,
                )
        except PublishError:  # a subclass of DeliveryError, so it comes first
            self._is_unroutable = True
            return Outcome.UNROUTABLE
        except DeliveryError:
            self._is_proven, self._in_vain = True, 0
            line.refused_since = line.refused_since or loop.time()
            return self._refused(line, exchange, key, started)
        except BaseException as error:
            if not is_broker_fault(error):
                raise
            self._give_up(line, error)
            return Outcome.UNKNOWN
        finally:
            line.waiting -= 1
        self._is_proven, self._in_vain = True, 0
        line.refused_since, line.replaced = None, 0
        if self._refusals.since is not None:
            if self._refusals.is_fault:
                self._no_fault()
            self._refusals.confirmed()
        metrics.CONFIRM_SECONDS.labels(exchange).observe(loop.time() - started)
        return Outcome.CONFIRMED

    async def _session(self, connection: AbstractConnection) -> None:
        line = await _open(connection, 1)
        async with answering():
            if self._meet is not None:
                await self._meet(lambda: _channel(connection, _ASKING_CHANNEL))
            queue = await self._declare(line.channel)
        self._queue, self._refusals = queue.name if queue is not None else None, Refusals()
        self._asking = self._looking = None
        metrics.BROKER_REFUSES_WITH_ROOM.labels(self._part).set(0)
        self._connection, self._line, self._is_proven = connection, line, False
        self._health.up(self._part)
        try:
            await self._look_after(connection, line)
        finally:
            self._connection = self._line = None

    async def _look_after(self, connection: AbstractConnection, line: _Line) -> None:
        """Keep readiness true, the topology declared and a channel usable, until the connection is lost (raises)."""
        was_blocked = False
        former: _Line | None = None
        while not await self._lost_or_nudged(line):
            blocked = self._is_blocked()
            if self._refusals.since is not None and not blocked:
                await self._explain_refusals(connection)
            if self._is_unroutable and not blocked:
                await self._declare_again(connection)
            if former is None and self._is_stuck(line) and not self._is_blocked():
                former, line = await self._replace(connection, line)
            if former is not None and not self._is_blocked() and await _is_closed(former):
                former = None
            if blocked == was_blocked:
                continue
            was_blocked = blocked
            if blocked:
                self._health.down(self._part, "blocked by the broker: memory or disk alarm")
            elif not self._refusals.is_fault:
                self._health.up(self._part)

    def _is_stuck(self, line: _Line) -> bool:
        """Whether to try another channel; sooner if it would show whether the broker is at fault."""
        return line.is_stuck() or (
            line.has_refused_for(_FIRST_REFUSED_S) and self._refusals.wants_another(line.opened_at)
        )

    async def _lost_or_nudged(self, line: _Line) -> bool:
        """Wait a moment, or for a nudge. Raises what ended the connection, if it is lost."""
        self._nudge = asyncio.get_running_loop().create_future()
        either: set[asyncio.Future[None]] = {line.lost, self._nudge}
        await asyncio.wait(either, timeout=_BLOCKED_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
        return line.lost.done() and line.lost.result() is None

    def _refused(self, line: _Line, exchange: str, key: str, sent_at: float) -> Outcome:
        self._refused_by = exchange, key
        was_fault = self._refusals.is_fault
        is_broken = self._refusals.refused(sent_at, asyncio.get_running_loop().time(), line.opened_at)
        if self._refusals.is_fault and not was_fault:
            metrics.BROKER_REFUSES_WITH_ROOM.labels(self._part).set(1)
            self._health.down(self._part, f"RabbitMQ refuses messages although {self._queue} has room: restart it")
        if self._refusals.is_unexplained and self._nudge is not None and not self._nudge.done():
            self._nudge.set_result(None)
        self._tell_refusals()
        return Outcome.BROKEN if is_broken else Outcome.REFUSED

    def _no_fault(self) -> None:
        metrics.BROKER_REFUSES_WITH_ROOM.labels(self._part).set(0)
        self._health.up(self._part)
        log.info("the broker is no longer at fault", part=self._part, queue=self._queue)

    async def _explain_refusals(self, connection: AbstractConnection) -> None:
        """Ask for the depth of the queue that refuses. If it has room, also send an empty probe now and then."""
        if self._queue is None:
            return
        ready = await self._depth(connection, self._queue)
        was_fault, now = self._refusals.is_fault, asyncio.get_running_loop().time()
        if self._refusals.since is None:  # confirmed meanwhile
            return
        self._refusals.looked(ready, now)
        if was_fault and not self._refusals.is_fault:
            self._no_fault()
        self._tell_refusals()
        if self._refusals.is_broken and now >= self._refusals.last + _TRY_EVERY_S:
            await self.publish(*self._refused_by, _NO_ORDERS)

    async def _depth(self, connection: AbstractConnection, queue: str) -> int:
        """The ready messages of `queue`. Raises BrokerLost, also if no answer comes."""
        async with answering():
            if self._asking is None or self._asking.is_closed:
                self._asking = await _channel(connection, _ASKING_CHANNEL)
            underlay = await self._asking.get_underlay_channel()
            declared = await underlay.queue_declare(queue, passive=True)
            return declared.message_count or 0

    async def _replace(self, connection: AbstractConnection, line: _Line) -> tuple[_Line | None, _Line]:
        """Publish on a new channel. Returns the old one, to close once nothing waits on it, and the one in use."""
        another = await _open(connection, 3 - line.underlay.number)
        if line.lost.done():  # a publish got no answer meanwhile, so the whole connection goes
            return None, line
        another.replaced = line.replaced + 1
        self._line = another
        log.info("all was refused; asking on another channel", part=self._part, replaced=another.replaced)
        return line, another

    async def _declare_again(self, connection: AbstractConnection) -> None:
        """Declare everything again: a queue or a binding was deleted, and only an unroutable message shows it."""
        now = asyncio.get_running_loop().time()
        if now < self._declared_at + _DECLARE_EVERY_S:
            return
        self._is_unroutable, self._declared_at = False, now
        metrics.REDECLARATIONS.labels(self._part).inc()
        async with asyncio.timeout(self._settings.confirm_timeout_s):
            # On a channel of its own, so that confirms do not wait for it.
            channel = await _channel(connection, _DECLARING_CHANNEL)
            queue = await self._declare(channel)
            await channel.close()
        if queue is not None:
            log.error("a message was refused for want of a queue; declared all again", queue=queue.name)

    def _patience_s(self, timeout_s: float) -> float:
        """The confirm's timeout: less for a node that has confirmed nothing yet.

        A node that is cut off takes every message and confirms none. With the whole timeout, a client that tried two
        such nodes was back after 15.8 s.
        """
        return timeout_s if self._is_proven else patience_s(timeout_s, self._in_vain, len(self._settings.amqp_urls))

    def _tell_refusals(self) -> None:
        """Log refusals once in a while: a full queue refuses some messages and takes those in between."""
        now = asyncio.get_running_loop().time()
        is_unexplained = self._queue is not None and not (self._refusals.is_fault or self._refusals.is_full)
        if now < self._tells_refusals_at or is_unexplained:
            return
        self._tells_refusals_at = now + _TELL_REFUSALS_EVERY_S
        exchange, key = self._refused_by
        if self._refusals.is_fault:
            said = "the broker refuses messages although the queue has room; it has to be restarted"
            log.error(said, part=self._part, exchange=exchange, key=key, queue=self._queue)
        else:
            log.warning("the broker refuses messages: a queue is full", exchange=exchange, key=key)

    def _is_blocked(self) -> bool:
        """Whether the broker has sent connection.blocked (an alarm for memory or disk) and not yet unblocked."""
        if self._connection is None or self._connection.transport is None:
            return True
        # The client shows it only through a coroutine, which returns at once if the connection is not blocked.
        ready = self._connection.transport.connection.ready()
        try:
            ready.send(None)
        except StopIteration:
            return False
        finally:
            ready.close()
        return True

    def _give_up(self, line: _Line, error: BaseException) -> None:
        """Drop the connection after a publish without an answer: nothing on its channel can be trusted.

        Keep it while the broker blocks it: a new connection would be blocked as well, at its first publish.
        """
        log.error("publish without an answer", part=self._part, error=describe(error), blocked=self._is_blocked())
        if self._line is line and not self._is_blocked():
            self._line = None
            self._in_vain += not self._is_proven
            if not line.lost.done():
                line.lost.set_exception(BrokerLost(f"publish failed: {describe(error)}"))


async def _open(connection: AbstractConnection, number: int) -> _Line:
    """Open a channel to publish on. `number`: the client's own count would run past the last that the broker allows."""
    opened_at = asyncio.get_running_loop().time()
    async with answering():
        channel = await _channel(connection, number, publisher_confirms=True, on_return_raises=True)
    underlay = await channel.get_underlay_channel()
    assert isinstance(underlay, aiormq.Channel)
    return _Line(channel, underlay, when_lost(connection, channel), opened_at)


async def _channel(
    connection: AbstractConnection, number: int, *, publisher_confirms: bool = False, on_return_raises: bool = False
) -> AbstractChannel:
    """Open channel `number`. Raises BrokerLost also if it is in use: an answer that never came may have left it so."""
    try:
        return await connection.channel(
            number, publisher_confirms=publisher_confirms, on_return_raises=on_return_raises
        )
    except ValueError as error:
        raise BrokerLost(str(error)) from error


async def _is_closed(line: _Line) -> bool:
    """Close a replaced channel once no message waits for its confirm. Returns whether the broker has closed it too."""
    if line.waiting:
        return False
    line.lost.cancel()
    async with answering():
        await line.channel.close()
    # With short heartbeats the client stops waiting for the answer by itself, but the number is free only after it.
    return line.underlay.number not in line.underlay.connection.channels


def _properties(orders: int, schema: int | None = SCHEMA) -> Basic.Properties:
    said = {"schema": schema, "orders": orders or None}
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        headers={name: value for name, value in said.items() if value is not None},
    )
