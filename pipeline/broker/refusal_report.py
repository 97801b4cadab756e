"""Finds out why the broker refuses messages, and reports it: in readiness, in a metric, in the log."""

import asyncio

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from pipeline.broker.connection import answering
from pipeline.broker.publishing_channels import ASKING_CHANNEL, open_channel
from pipeline.broker.refusals import Refusals
from pipeline.process import metrics
from pipeline.process.health import Health

log = structlog.get_logger()

_TELL_EVERY_S = 10.0
# While an empty queue refuses, send a message without orders this long after the last refusal. A broker at fault takes
# readiness down, so there may be no orders to send, and only a confirm shows that the broker works again.
_PROBE_EVERY_S = 1.0


class RefusalReport:
    """What one publisher reports of refusals. `refusals` concludes, this asks and tells."""

    def __init__(self, health: Health, part: str) -> None:
        self._health, self._part = health, part
        self.refusals = Refusals()
        self._queue: str | None = None
        self._asking: AbstractChannel | None = None
        self._last = "", ""
        self._tells_at = 0.0

    def begin(self, queue: str | None) -> None:
        """Start again on a new connection. `queue`: the one that takes the messages, if its depth can be asked for."""
        self.refusals, self._queue, self._asking = Refusals(), queue, None
        metrics.BROKER_REFUSES_WITH_ROOM.labels(self._part).set(0)

    def refused(self, exchange: str, key: str, sent_at: float, opened_at: float) -> bool:
        """Record a refused message. Returns whether one was refused although the queue has room.

        `sent_at`, `opened_at`: when the message was sent, and when its channel was requested.
        """
        self._last = exchange, key
        was_fault = self.refusals.is_fault
        is_broken = self.refusals.refused(sent_at, _now(), opened_at)
        if self.refusals.is_fault and not was_fault:
            metrics.BROKER_REFUSES_WITH_ROOM.labels(self._part).set(1)
            self._health.down(self._part, f"RabbitMQ refuses messages although {self._queue} has room: restart it")
        self._tell()
        return is_broken

    def confirmed(self) -> None:
        """Record a confirm after refusals."""
        if self.refusals.is_fault:
            self._tell_no_fault()
        self.refusals.confirmed()

    async def look(self, connection: AbstractConnection) -> tuple[str, str] | None:
        """Ask for the depth of the queue that refuses. Raises BrokerLost, also if no answer comes.

        Returns the exchange and the key of a message to probe with, if it is time for one.
        """
        if self._queue is None:
            return None
        ready = await self._depth(connection, self._queue)
        was_fault, now = self.refusals.is_fault, _now()
        if self.refusals.since is None:  # confirmed meanwhile
            return None
        self.refusals.looked(ready, now)
        if was_fault and not self.refusals.is_fault:
            self._tell_no_fault()
        self._tell()
        return self._last if self.refusals.is_broken and now >= self.refusals.last + _PROBE_EVERY_S else None

    async def _depth(self, connection: AbstractConnection, queue: str) -> int:
        """The ready messages of `queue`."""
        async with answering():
            if self._asking is None or self._asking.is_closed:
                self._asking = await open_channel(connection, ASKING_CHANNEL)
            underlay = await self._asking.get_underlay_channel()
            declared = await underlay.queue_declare(queue, passive=True)
            return declared.message_count or 0

    def _tell(self) -> None:
        """Log refusals once in a while: a full queue refuses some messages and takes those in between."""
        is_unexplained = self._queue is not None and not (self.refusals.is_fault or self.refusals.is_full)
        if _now() < self._tells_at or is_unexplained:
            return
        self._tells_at = _now() + _TELL_EVERY_S
        exchange, key = self._last
        if self.refusals.is_fault:
            said = "the broker refuses messages although the queue has room; it has to be restarted"
            log.error(said, part=self._part, exchange=exchange, key=key, queue=self._queue)
        else:
            log.warning("the broker refuses messages: a queue is full", exchange=exchange, key=key)

    def _tell_no_fault(self) -> None:
        metrics.BROKER_REFUSES_WITH_ROOM.labels(self._part).set(0)
        self._health.up(self._part)
        log.info("the broker is no longer at fault", part=self._part, queue=self._queue)


def _now() -> float:
    return asyncio.get_running_loop().time()
