"""Consumes a queue in batches: deliveries → Batch → settle.
More than 300 lines: buffer, batch in hand and epoch change together, so one class owns them.

Batching is a scope, not a state machine: wait for the first delivery untimed, linger a little, take what has collected.
A batch knows why it closed and to which epoch it belongs.

An epoch is one consumer on one channel. Delivery tags mean nothing on another channel, and the broker redelivers what
was unacknowledged on a dead one. So when the channel dies, the buffer is dropped. A batch in hand is still written, but
not acknowledged: its orders are redelivered, and their primary keys show the duplicates.

A batch that cannot be written is held, along with at most `prefetch` messages. The broker closes the channel of a
consumer that holds a message for 30 minutes. It also counts the deliveries of a message: past `topology`'s limit it is
poison. So a consumer returns, once, what it has held for too long. The next epoch begins only when the batch of the
last one is written, which shows that writes work again. An outage of the database thus costs a message one delivery,
however long it lasts, and however often the broker fails meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import aiormq.abc
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aiormq.abc import DeliveredMessage

from pipeline.broker.connection import (
    BrokerLost,
    answering,
    describe,
    ends_within,
    is_broker_fault,
    keep_connected,
    when_lost,
)
from pipeline.broker.deliveries import Batch, BatchLimits, ClosedBy, Delivery, delivery_of
from pipeline.broker.watchdog import Seen, Watchdog
from pipeline.process import metrics
from pipeline.process.health import Health
from pipeline.process.settings import PipelineSettings

log = structlog.get_logger()

# How often the broker is asked for the queue's depth and consumers; also the resolution of `hold_s`.
_DEPTH_INTERVAL_S = 5.0
_CANCEL_TIMEOUT_S = 2.0

DeclareQueue = Callable[[AbstractChannel], Awaitable[AbstractQueue]]


class BatchConsumer:
    """Consumes one queue. At most one batch is in hand, so one ack settles all up to its last tag."""

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
        declares_again: bool = False,
    ) -> None:
        """`prefetch`: deliveries that the broker may send ahead, see pipeline.broker.worker_settings. `watched`: other
        queues that `declare` declares, whose depth is measured too. `declares_again`: call `declare` every few seconds,
        for a queue without a publisher that would notice a deleted binding.
        """
        self._declares_again = declares_again
        self._settings, self._health, self._part = settings, health, part
        self._declare, self._limits, self._prefetch, self._watched = declare, limits, prefetch, watched
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[tuple[float, Delivery]] = deque()
        self._buffered_orders = self._buffered_bytes = 0
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._stopping = False
        self._in_hand: Batch | None = None
        self._released = asyncio.Event()
        self._released.set()
        self._delivered = 0
        self._epoch = 0
        self._channel: aiormq.abc.AbstractChannel | None = None
        self._consumer_tag = ""
        self.queue_name = ""

    async def run(self) -> None:
        """Consume until cancelled, across reconnects."""
        await keep_connected(self._settings, self._health, self._part, self._session)

    async def next(self) -> Batch | None:
        """Return the next batch, or None once the consumer is stopped and its buffer is empty.

        The batch is in hand until it is settled, or until the next call.
        """
        self._release()
        while True:
            closed_by = await self._wait_until_closed()
            if self._buffer:
                return self._take(closed_by)
            if self._stopping:
                return None
            # A new epoch began during the linger and emptied the buffer.

    async def settle(self, batch: Batch) -> bool:
        """Acknowledge a batch once all of it is durable elsewhere. False if its epoch is over: it is redelivered."""
        self._release()
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
        """Stop consuming. `next` still returns what is buffered, without lingering, then None."""
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
        async with answering():
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=self._prefetch)
            queue = await self._declare(channel)
        self.queue_name = queue.name
        lost = when_lost(connection, channel)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: _fail(lost, "the broker cancelled the consumer"))
        while True:
            await self._until_released(underlay, lost)
            await self._consume(underlay, lost, channel)
            await self._give_back(underlay)

    async def _until_released(self, channel: aiormq.abc.AbstractChannel, lost: asyncio.Future[None]) -> None:
        """Wait until no batch of an earlier epoch is in hand."""
        if self._in_hand is None:
            return
        log.warning("consuming nothing before the batch in hand is done", queue=self.queue_name)
        self._forget()
        self._health.down(self._part, "consumes nothing before the batch in hand is done")
        releasing = asyncio.create_task(self._released.wait())
        try:
            while self._in_hand is not None:
                either: set[asyncio.Future[Any]] = {lost, releasing}
                await asyncio.wait(either, timeout=_DEPTH_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    lost.result()
                async with answering():
                    await self._look(channel)
        finally:
            releasing.cancel()

    async def _consume(
        self, channel: aiormq.abc.AbstractChannel, lost: asyncio.Future[None], declaring: AbstractChannel
    ) -> None:
        """Run one epoch, until a batch has been in hand for too long. Raises BrokerLost when the channel is gone."""
        # No await from here to the start of basic_consume: a consumer that `stop` cancels has begun, or never begins.
        if self._stopping:
            await lost
        self._begin_epoch(channel)
        watchdog = Watchdog(self._delivered)
        self._consumer_tag = f"{self._health.service}-{self._epoch}"
        try:
            async with answering():
                await channel.basic_consume(self.queue_name, self._on_delivery, consumer_tag=self._consumer_tag)
            self._health.up(self._part)
            while not await ends_within(lost, _DEPTH_INTERVAL_S):
                # This look is the first to notice a frozen node: heartbeats take 33 s. The broker may be slow for a
                # moment, so it gets seconds: a loss redelivers all that is unacknowledged, which costs a delivery.
                async with answering():
                    if self._declares_again:
                        await self._declare(declaring)
                    ready, consumers = await self._look(channel)
                if self._held_s() > self._limits.hold_s:
                    return
                if not self._stopping:
                    is_busy = self._in_hand is not None or bool(self._buffer)
                    seen = watchdog.look(ready=ready, consumers=consumers, delivered=self._delivered, is_busy=is_busy)
                    self._report(seen, ready, consumers)
        finally:
            self._channel = None
            metrics.CONSUMER_STALLED.labels(self.queue_name).set(0)  # it ends with the epoch

    async def _give_back(self, channel: aiormq.abc.AbstractChannel) -> None:
        """Return all unacknowledged messages to the broker. The batch in hand is still being written."""
        log.error("held for too long; given back to the broker", queue=self.queue_name, held_s=round(self._held_s()))
        metrics.GIVEN_BACK.labels(self.queue_name).inc()
        self._forget()
        # Cancel the consumer first, or all of them would come back to it at once.
        async with answering():
            await channel.basic_cancel(self._consumer_tag)
        await channel.basic_nack(0, multiple=True, requeue=True)

    async def _look(self, channel: aiormq.abc.AbstractChannel) -> tuple[int, int]:
        """Ask the broker for the queue's ready messages and its consumers, and set the depth metrics."""
        for name in self._watched:
            metrics.QUEUE_DEPTH.labels(name).set((await _look_at(channel, name))[0])
        ready, consumers = await _look_at(channel, self.queue_name)
        metrics.QUEUE_DEPTH.labels(self.queue_name).set(ready)
        return ready, consumers

    def _report(self, seen: Seen, ready: int, consumers: int) -> None:
        """Report what the watchdog found. Raises BrokerLost if only a new session is left to try."""
        metrics.CONSUMER_STALLED.labels(self.queue_name).set(seen is not Seen.FINE)
        if seen is Seen.FINE:
            self._health.up(self._part)
            return
        why = f"{ready} messages are ready and none is delivered; the queue has {consumers} consumers"
        self._health.down(self._part, why)
        log.error("consumer stalled", queue=self.queue_name, ready=ready, consumers=consumers)
        if seen is Seen.DEAD:
            raise BrokerLost(why)

    def _begin_epoch(self, channel: aiormq.abc.AbstractChannel) -> None:
        self._epoch += 1
        self._channel = channel
        self._forget()

    def _forget(self) -> None:
        """Drop the buffer: the broker redelivers it."""
        self._buffer.clear()
        self._buffered_orders = self._buffered_bytes = 0
        if not self._stopping:
            self._arrived.clear()
            self._full.clear()

    def _release(self) -> None:
        self._in_hand = None
        self._released.set()

    def _held_s(self) -> float:
        """Seconds since the first delivery of the batch in hand; 0 if there is none."""
        return self._loop.time() - self._in_hand.arrived_at if self._in_hand is not None else 0.0

    async def _on_delivery(self, message: DeliveredMessage) -> None:
        # No await here: the client starts a task for each delivery, and tags must enter the buffer in order.
        if message.channel is not self._channel:
            return
        delivery = delivery_of(message)
        self._delivered += 1
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
        arrived_at = self._buffer[0][0]
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
        if again := sum(it.redelivered for it in deliveries):
            log.info("batch with redeliveries", queue=self.queue_name, messages=again)
        self._in_hand = Batch(deliveries, closed_by, self._epoch, arrived_at, self._loop.time())
        self._released.clear()
        return self._in_hand

    def _reset_events(self) -> None:
        if self._stopping:
            return
        if not self._buffer:
            self._arrived.clear()
        if self._why_full() is None:
            self._full.clear()


async def _look_at(channel: aiormq.abc.AbstractChannel, queue: str) -> tuple[int, int]:
    """Ready messages and consumers, by a passive declare: the broker's CLI would start an Erlang VM to answer."""
    declared = await channel.queue_declare(queue, passive=True)
    return declared.message_count or 0, declared.consumer_count or 0


def _fail(lost: asyncio.Future[None], why: str) -> None:
    if not lost.done():
        lost.set_exception(BrokerLost(why))
