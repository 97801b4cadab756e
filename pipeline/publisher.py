"""Publishing with confirms: one message, one Outcome, confirmed or how not. Unknown outcomes are named."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from pipeline import metrics
from pipeline.broker import (
    BrokerLost,
    answering,
    describe,
    ends_within,
    is_broker_fault,
    keep_connected,
    patience_s,
    when_lost,
)
from pipeline.health import Health
from pipeline.orders import SCHEMA
from pipeline.settings import BrokerSettings

log = structlog.get_logger()

# The client tells nobody when the broker blocks or unblocks a connection, so readiness asks.
_BLOCKED_INTERVAL_S = 0.5
# An unroutable message is refused at once, and at most so often all is declared again.
_DECLARE_EVERY_S = 1.0
_TELL_REFUSALS_EVERY_S = 10.0


class Outcome(Enum):
    """What became of a message."""

    CONFIRMED = "confirmed"
    """Routed, and fsynced by a quorum of the queue's nodes."""
    REFUSED = "refused"
    """The broker said no: the queue is full. Not stored."""
    UNROUTABLE = "unroutable"
    """No queue is bound to the key. Not stored. All is declared again, so the next may be."""
    NOT_SENT = "not_sent"
    """There was no broker to send it to, or it had said that it takes nothing. Not stored."""
    UNKNOWN = "unknown"
    """Sent, and the answer never came. May be stored."""


Declare = Callable[[AbstractChannel], Awaitable[AbstractQueue | None]]
"""Returns the queue that is to take the messages, or None if it is no fault when nobody does."""


class Publisher:
    """A connection that only publishes. Blocked or broken, it says so at once; it never waits past its deadline."""

    def __init__(self, settings: BrokerSettings, health: Health, part: str, declare: Declare) -> None:
        """`part`: what readiness calls this connection.

        `declare`: run before the first publish of each connection, and again after a message that no queue took.
        """
        self._settings, self._health, self._part, self._declare = settings, health, part, declare
        self._connection: AbstractConnection | None = None
        self._channel: aiormq.Channel | None = None
        self._lost: asyncio.Future[None] | None = None
        self._is_unroutable, self._declared_at = False, 0.0
        self._tells_refusals_at = 0.0
        self._is_proven, self._in_vain = False, 0

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        await keep_connected(self._settings, self._health, self._part, self._session)

    @property
    def is_open(self) -> bool:
        """Whether a message can be sent now: False when blocked, or within two heartbeats of losing the broker."""
        return self._channel is not None and not self._is_blocked()

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
        """Send one persistent message and wait for its confirm. Never raises for what the broker or the network does.

        `orders`: how many the body holds, told in a header so that a reader can bound its batches without decoding.
        `schema`: the version of the body, if it is not ours; None: the message does not say. `timeout_s`: for the
        confirm, instead of the setting's.
        """
        channel = self._channel
        if channel is None or self._is_blocked():
            return Outcome.NOT_SENT
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._patience_s(timeout_s or self._settings.confirm_timeout_s)):
                # wait=False skips only the wait for the socket's buffer to drain; the confirm is still awaited.
                await channel.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=key,
                    properties=_properties(orders, schema),
                    mandatory=True,
                    wait=False,
                )
        except PublishError:  # a DeliveryError too, so it comes first
            self._is_unroutable = True
            return Outcome.UNROUTABLE
        except DeliveryError:
            self._is_proven, self._in_vain = True, 0
            self._tell_refusal(exchange, key)
            return Outcome.REFUSED
        except BaseException as error:
            if not is_broker_fault(error):
                raise
            self._give_up(channel, error)
            return Outcome.UNKNOWN
        self._is_proven, self._in_vain = True, 0
        metrics.CONFIRM_SECONDS.labels(exchange).observe(loop.time() - started)
        return Outcome.CONFIRMED

    async def _session(self, connection: AbstractConnection) -> None:
        async with answering():
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            await self._declare(channel)
        self._lost = when_lost(connection, channel)
        underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, aiormq.Channel)
        self._connection, self._channel, self._is_proven = connection, underlay, False
        self._health.up(self._part)
        try:
            await self._look_after(connection, self._lost)
        finally:
            self._connection = self._channel = None

    async def _look_after(self, connection: AbstractConnection, lost: asyncio.Future[None]) -> None:
        """Keep readiness true, and declared what must be, until the connection is lost, and raise that."""
        was_blocked = False
        while not await ends_within(lost, _BLOCKED_INTERVAL_S):
            blocked = self._is_blocked()
            if self._is_unroutable and not blocked:
                await self._declare_again(connection)
            if blocked == was_blocked:
                continue
            was_blocked = blocked
            if blocked:
                self._health.down(self._part, "blocked by the broker: memory or disk alarm")
            else:
                self._health.up(self._part)

    async def _declare_again(self, connection: AbstractConnection) -> None:
        """Somebody has deleted a queue or a binding, and nobody tells a publisher. Whoever meets it mends it."""
        now = asyncio.get_running_loop().time()
        if now < self._declared_at + _DECLARE_EVERY_S:
            return
        self._is_unroutable, self._declared_at = False, now
        metrics.REDECLARATIONS.labels(self._part).inc()
        async with asyncio.timeout(self._settings.confirm_timeout_s):
            # A channel of its own: what waits for its confirm should not wait for this.
            channel = await connection.channel(publisher_confirms=False)
            queue = await self._declare(channel)
            await channel.close()
        if queue is not None:
            log.error("a message was refused for want of a queue; declared all again", queue=queue.name)

    def _patience_s(self, timeout_s: float) -> float:
        """Less for a node whose queue has not answered yet: one that is cut off takes all that it is sent, and says
        nothing.

        With the whole of it, a client that met two nodes in vain was back after 15.8 s.
        """
        return timeout_s if self._is_proven else patience_s(timeout_s, self._in_vain, len(self._settings.amqp_urls))

    def _tell_refusal(self, exchange: str, key: str) -> None:
        """Once in a while: a full queue refuses each message that finds it full, and takes those between."""
        now = asyncio.get_running_loop().time()
        if now >= self._tells_refusals_at:
            self._tells_refusals_at = now + _TELL_REFUSALS_EVERY_S
            log.warning("the broker refuses messages: a queue is full", exchange=exchange, key=key)

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
            self._in_vain += not self._is_proven
            if self._lost is not None and not self._lost.done():
                self._lost.set_exception(BrokerLost(f"publish failed: {describe(error)}"))


def _properties(orders: int, schema: int | None = SCHEMA) -> Basic.Properties:
    said = {"schema": schema, "orders": orders or None}
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        headers={name: value for name, value in said.items() if value is not None},
    )
