"""Consuming in batches: deliveries → Batch → settle.

Batching is a scope, not a state machine: wait for the first delivery untimed, linger a little, take what has collected.
A batch knows why it closed and to which epoch it belongs.

An epoch is one life of the channel. Delivery tags mean nothing on another channel, and what was not acknowledged on a
dead one is delivered again. So when the channel dies, what is buffered is forgotten, and a batch that is being written
goes on being written but is not acknowledged: its orders come again, and their primary keys tell.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import aiormq.abc
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from pipeline import metrics
from pipeline.broker import BrokerLost, describe, ends_within, is_broker_fault, keep_connected, when_lost
from pipeline.health import Health
from pipeline.settings import PipelineSettings

log = structlog.get_logger()

_DEPTH_INTERVAL_S = 5.0
_CANCEL_TIMEOUT_S = 2.0

DeclareQueue = Callable[[AbstractChannel], Awaitable[AbstractQueue]]


class ClosedBy(Enum):
    """Why a batch was closed."""

    IDLE = "idle"
    """Nothing to linger for: the setting is 0, or the first delivery had already waited that long."""
    LINGER = "linger"
    SIZE = "size"
    """As many orders or deliveries as a batch may have."""
    BYTES = "bytes"
    DRAIN = "drain"
    """The process is stopping."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What closes a batch. A delivery is never split: a batch may exceed `orders` and `size_bytes` by one."""

    orders: int
    size_bytes: int
    deliveries: int
    linger_s: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message: a body of orders and what its headers say."""

    tag: int
    body: bytes
    schema: object
    """The version of the body as the header has it; anything at all if the header is wrong, None if it is missing."""
    orders: int
    """How many orders the header promises; 1 if it does not say."""
    redelivered: bool


@dataclass(frozen=True, slots=True)
class Batch:
    deliveries: list[Delivery]
    closed_by: ClosedBy
    epoch: int
    taken_at: float
    """Loop time."""


class BatchConsumer:
    """Consumes one queue. One batch is in hand at any moment, so one ack settles all up to its last tag."""

    def __init__(
        self,
        settings: PipelineSettings,
        health: Health,
        part: str,
        declare: DeclareQueue,
        limits: BatchLimits,
        prefetch: int,
        *,
        watched: tuple[str, ...] = (),
    ) -> None:
        """`prefetch`: deliveries that the broker may send ahead, see pipeline.worker_settings. `watched`: more queues
        that `declare` declares, whose depth is worth knowing.
        """
        self._settings, self._health, self._part = settings, health, part
        self._declare, self._limits, self._prefetch, self._watched = declare, limits, prefetch, watched
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[tuple[float, Delivery]] = deque()
        self._buffered_orders = self._buffered_bytes = 0
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._stopping = False
        self._epoch = 0
        self._channel: aiormq.abc.AbstractChannel | None = None
        self._consumer_tag = ""
        self.queue_name = ""

    async def run(self) -> None:
        """Keep consuming until cancelled."""
        await keep_connected(self._settings, self._health, self._part, self._session)

    async def next(self) -> Batch | None:
        """The next batch, or None once the consumer was stopped and its buffer is empty."""
        while True:
            closed_by = await self._wait_until_closed()
            if self._buffer:
                return self._take(closed_by)
            if self._stopping:
                return None
            # A new epoch began while we lingered, and took the buffer with it.

    async def settle(self, batch: Batch) -> bool:
        """Acknowledge a batch: all of it is durably elsewhere. False if its channel is gone: it will come again."""
        channel = self._channel
        if channel is not None and batch.epoch == self._epoch:
            try:
                await channel.basic_ack(batch.deliveries[-1].tag, multiple=True, wait=False)
                metrics.BATCH_SECONDS.labels(self.queue_name).observe(self._loop.time() - batch.taken_at)
                return True
            except BaseException as error:
                if not is_broker_fault(error):
                    raise
                log.warning("ack failed", queue=self.queue_name, error=describe(error))
        metrics.STALE_BATCHES.labels(self.queue_name).inc()
        return False

    async def stop(self) -> None:
        """Take no more from the broker. `next` goes on giving what is buffered, without lingering, then None."""
        self._stopping = True
        if self._channel is not None:
            try:
                await self._channel.basic_cancel(self._consumer_tag, timeout=_CANCEL_TIMEOUT_S)
            except BaseException as error:
                if not is_broker_fault(error):
                    raise
                log.info("cancel failed", queue=self.queue_name, error=describe(error))
        self._arrived.set()
        self._full.set()

    async def _session(self, connection: AbstractConnection) -> None:
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=self._prefetch)
        queue = await self._declare(channel)
        self.queue_name = queue.name
        lost = when_lost(connection, channel)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: _fail(lost, "the broker cancelled the consumer"))
        # No await from here to the start of basic_consume: what `stop` cancels must have begun, or never begin.
        if self._stopping:
            await lost
        self._begin_epoch(underlay)
        self._consumer_tag = f"{self._health.service}-{self._epoch}"
        await underlay.basic_consume(queue.name, self._on_delivery, consumer_tag=self._consumer_tag)
        self._health.up(self._part)
        try:
            while not await ends_within(lost, _DEPTH_INTERVAL_S):
                for name in (queue.name, *self._watched):
                    metrics.QUEUE_DEPTH.labels(name).set(await _depth(underlay, name))
        finally:
            self._channel = None

    def _begin_epoch(self, channel: aiormq.abc.AbstractChannel) -> None:
        self._epoch += 1
        self._channel = channel
        self._buffer.clear()
        self._buffered_orders = self._buffered_bytes = 0
        if not self._stopping:
            self._arrived.clear()
            self._full.clear()

    async def _on_delivery(self, message: DeliveredMessage) -> None:
        # No await in here: the client starts a task for each delivery, and tags must enter the buffer in their order.
        if message.channel is not self._channel:
            return
        delivery = _delivery(message)
        if delivery.redelivered:
            metrics.REDELIVERIES.labels(self.queue_name).inc()
        self._buffer.append((self._loop.time(), delivery))
        self._buffered_orders += delivery.orders
        self._buffered_bytes += len(delivery.body)
        self._arrived.set()
        if self._why_full() is not None:
            self._full.set()

    def _why_full(self) -> ClosedBy | None:
        if self._buffered_orders >= self._limits.orders or len(self._buffer) >= self._limits.deliveries:
            return ClosedBy.SIZE
        return ClosedBy.BYTES if self._buffered_bytes >= self._limits.size_bytes else None

    async def _wait_until_closed(self) -> ClosedBy:
        await self._arrived.wait()
        if self._stopping:
            return ClosedBy.DRAIN
        if not self._full.is_set() and self._buffer:
            linger_until = self._buffer[0][0] + self._limits.linger_s
            if linger_until <= self._loop.time():
                return ClosedBy.IDLE
            try:
                async with asyncio.timeout_at(linger_until):
                    await self._full.wait()
            except TimeoutError:
                return ClosedBy.LINGER
        return ClosedBy.DRAIN if self._stopping else self._why_full() or ClosedBy.LINGER

    def _take(self, closed_by: ClosedBy) -> Batch:
        deliveries: list[Delivery] = []
        orders = size_bytes = 0
        limits = self._limits
        while self._buffer and orders < limits.orders and size_bytes < limits.size_bytes:
            if len(deliveries) == limits.deliveries:
                break
            delivery = self._buffer.popleft()[1]
            deliveries.append(delivery)
            orders += delivery.orders
            size_bytes += len(delivery.body)
        self._buffered_orders -= orders
        self._buffered_bytes -= size_bytes
        self._reset_events()
        metrics.BATCHES_CLOSED.labels(self.queue_name, closed_by.value).inc()
        metrics.BATCH_ORDERS.labels(self.queue_name).observe(orders)
        return Batch(deliveries, closed_by, self._epoch, self._loop.time())

    def _reset_events(self) -> None:
        if self._stopping:
            return
        if not self._buffer:
            self._arrived.clear()
        if self._why_full() is None:
            self._full.clear()


async def _depth(channel: aiormq.abc.AbstractChannel, queue: str) -> int:
    """Messages ready, by a passive declare: the broker's CLI would start a virtual machine to answer.

    Without a timeout: the client closes a channel whose call timed out, and a broker that is slow for a moment would
    have to deliver everything again. One that is gone is noticed by the heartbeat.
    """
    return (await channel.queue_declare(queue, passive=True)).message_count or 0


def _fail(lost: asyncio.Future[None], why: str) -> None:
    if not lost.done():
        lost.set_exception(BrokerLost(why))


def _delivery(message: DeliveredMessage) -> Delivery:
    frame = message.delivery
    assert isinstance(frame, Basic.Deliver)
    headers: dict[str, Any] = message.header.properties.headers or {}
    orders = headers.get("orders")
    return Delivery(
        tag=frame.delivery_tag or 0,
        body=message.body,
        schema=headers.get("schema"),
        orders=orders if isinstance(orders, int) and orders > 0 else 1,
        redelivered=bool(frame.redelivered),
    )
