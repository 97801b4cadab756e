"""Publishes messages with publisher confirms: one message, one Outcome. An unknown outcome is one of them."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from pipeline.broker.channel_replacement import ChannelState
from pipeline.broker.connection import (
    BrokerLost,
    answering,
    describe,
    is_blocked,
    is_broker_fault,
    keep_connected,
    patience_s,
)
from pipeline.broker.publishing_channels import (
    ASKING_CHANNEL,
    DECLARING_CHANNEL,
    LOOKING_CHANNEL,
    PublishingChannel,
    PublishingChannels,
    open_channel,
)
from pipeline.broker.refusal_report import RefusalReport
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
# What a probe holds, see pipeline.broker.refusal_report.
_NO_ORDERS = b"[]"
_LOOK_WITHIN_S = 1.0


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


class Publisher:
    """Publishes on its own connection. Fails at once if that is blocked or broken; never waits past its deadline."""

    def __init__(
        self,
        settings: BrokerSettings,
        health: Health,
        part: str,
        declare: Declare,
        meet: Meet | None = None,
        *,
        declares_again: bool = True,
    ) -> None:
        """`part`: this connection's name in readiness.

        `declare`: runs before the first publish of each connection, and, if it `declares_again`, after an unroutable
        message: a queue or a binding of ours may have been deleted. `meet`: runs once on each connection, before
        `declare`.
        """
        self._settings, self._health, self._part, self._declare = settings, health, part, declare
        self._meet, self._declares_again = meet, declares_again
        self._connection: AbstractConnection | None = None
        self._channel: PublishingChannel | None = None
        self._report = RefusalReport(health, part)
        self._is_unroutable, self._declared_at = False, 0.0
        self._looking: AbstractChannel | None = None
        self._nudge: asyncio.Future[None] | None = None
        self._is_proven, self._in_vain = False, 0

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        await keep_connected(self._settings, self._health, self._part, self._session)

    @property
    def is_open(self) -> bool:
        """Whether a message can be sent now: False if blocked, and within two heartbeats of losing the broker."""
        return self._channel is not None and not self._is_blocked()

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
                    self._looking = await open_channel(connection, LOOKING_CHANNEL)
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
        channel = self._channel
        if channel is None or self._is_blocked():
            return Outcome.NOT_SENT
        state, loop = channel.state, asyncio.get_running_loop()
        started = loop.time()
        state.waiting += 1
        try:
            async with asyncio.timeout(self._patience_s(timeout_s or self._settings.confirm_timeout_s)):
                # wait=False skips only the wait for the socket's buffer to drain; the confirm is still awaited.
                await channel.underlay.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=key,
                    properties=_properties(orders, schema),
                    mandatory=True,
                    wait=False,
                )
        except PublishError:  # a subclass of DeliveryError, so it comes first
            self._is_unroutable = self._declares_again
            return Outcome.UNROUTABLE
        except DeliveryError:
            self._is_proven, self._in_vain = True, 0
            state.refused(loop.time())
            return self._refused(state, exchange, key, started)
        except BaseException as error:
            if not is_broker_fault(error):
                raise
            self._give_up(channel, error)
            return Outcome.UNKNOWN
        finally:
            state.waiting -= 1
        self._is_proven, self._in_vain = True, 0
        state.confirmed()
        if self._report.refusals.since is not None:
            self._report.confirmed()
        metrics.CONFIRM_SECONDS.labels(exchange).observe(loop.time() - started)
        return Outcome.CONFIRMED

    async def _session(self, connection: AbstractConnection) -> None:
        channels = await PublishingChannels.open(connection)
        async with answering():
            if self._meet is not None:
                await self._meet(lambda: open_channel(connection, ASKING_CHANNEL))
            queue = await self._declare(channels.current.channel)
        self._report.begin(queue.name if queue is not None else None)
        self._looking = None
        self._connection, self._channel, self._is_proven = connection, channels.current, False
        self._health.up(self._part)
        try:
            await self._look_after(connection, channels)
        finally:
            self._connection = self._channel = None

    async def _look_after(self, connection: AbstractConnection, channels: PublishingChannels) -> None:
        """Keep readiness true, the topology declared and a channel usable, until the connection is lost (raises)."""
        was_blocked = False
        while not await self._lost_or_nudged(channels.current):
            blocked = self._is_blocked()
            if self._report.refusals.since is not None and not blocked:
                await self._explain_refusals(connection)
            if self._is_unroutable and not blocked:
                await self._declare_again(connection)
            if not self._is_blocked():
                await self._replace_if_stuck(channels)
            if not self._is_blocked():
                await channels.close_former_if_idle()
            if blocked != was_blocked:
                was_blocked = blocked
                self._tell_blocked(blocked=blocked)

    def _tell_blocked(self, *, blocked: bool) -> None:
        if blocked:
            self._health.down(self._part, "blocked by the broker: memory or disk alarm")
        elif not self._report.refusals.is_fault:
            self._health.up(self._part)

    async def _explain_refusals(self, connection: AbstractConnection) -> None:
        if (probe := await self._report.look(connection)) is not None:
            await self.publish(*probe, _NO_ORDERS)

    async def _replace_if_stuck(self, channels: PublishingChannels) -> None:
        is_suspect = self._report.refusals.wants_another(channels.current.state.opened_at)
        if await channels.replace_if_stuck(is_suspect=is_suspect):
            self._channel = channels.current
            replaced = channels.current.state.replaced
            log.info("all was refused; asking on another channel", part=self._part, replaced=replaced)

    async def _lost_or_nudged(self, channel: PublishingChannel) -> bool:
        """Wait a moment, or for a nudge. Raises what ended the connection, if it is lost."""
        self._nudge = asyncio.get_running_loop().create_future()
        either: set[asyncio.Future[None]] = {channel.lost, self._nudge}
        await asyncio.wait(either, timeout=_BLOCKED_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
        return channel.lost.done() and channel.lost.result() is None

    def _refused(self, channel: ChannelState, exchange: str, key: str, sent_at: float) -> Outcome:
        is_broken = self._report.refused(exchange, key, sent_at, channel.opened_at)
        if self._report.refusals.is_unexplained and self._nudge is not None and not self._nudge.done():
            self._nudge.set_result(None)
        return Outcome.BROKEN if is_broken else Outcome.REFUSED

    async def _declare_again(self, connection: AbstractConnection) -> None:
        """Declare everything again: a queue or a binding was deleted, and only an unroutable message shows it."""
        now = asyncio.get_running_loop().time()
        if now < self._declared_at + _DECLARE_EVERY_S:
            return
        self._is_unroutable, self._declared_at = False, now
        metrics.REDECLARATIONS.labels(self._part).inc()
        async with asyncio.timeout(self._settings.confirm_timeout_s):
            # On a channel of its own, so that confirms do not wait for it.
            channel = await open_channel(connection, DECLARING_CHANNEL)
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

    def _is_blocked(self) -> bool:
        return self._connection is None or is_blocked(self._connection)

    def _give_up(self, channel: PublishingChannel, error: BaseException) -> None:
        """Drop the connection after a publish without an answer: nothing on its channel can be trusted.

        Keep it while the broker blocks it: a new connection would be blocked as well, at its first publish.
        """
        log.error("publish without an answer", part=self._part, error=describe(error), blocked=self._is_blocked())
        if self._channel is channel and not self._is_blocked():
            self._channel = None
            self._in_vain += not self._is_proven
            if not channel.lost.done():
                channel.lost.set_exception(BrokerLost(f"publish failed: {describe(error)}"))


def _properties(orders: int, schema: int | None = SCHEMA) -> Basic.Properties:
    said = {"schema": schema, "orders": orders or None}
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        headers={name: value for name, value in said.items() if value is not None},
    )
