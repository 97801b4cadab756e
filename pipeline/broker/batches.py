"""Consuming in batches: deliveries → Batch → settle.

Batching is a scope, not a state machine: wait for the first delivery untimed, linger a little, take what has collected.
A batch knows why it closed and to which epoch it belongs.

An epoch is one consumer on one channel. Delivery tags mean nothing on another channel, and what was not acknowledged on
a dead one is delivered again. So when the channel dies, what is buffered is forgotten, and a batch that is being
written goes on being written but is not acknowledged: its orders come again, and their primary keys tell.

A batch that cannot be written is held, and meanwhile at most `prefetch` messages are. The broker closes the channel of
whoever holds a message for 30 minutes, and counts each delivery of a message: after `topology`'s limit it is taken for
poison. So what has been held for too long is given back, once, and an epoch does not begin before the batch of the last
one has been written: that is the sign that there is somewhere to write to. However long the database is away, and
however often the broker goes meanwhile, that costs a message one delivery.
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

# How often the broker is asked for its side of things, and how exact `hold_s` is.
_DEPTH_INTERVAL_S = 5.0
_CANCEL_TIMEOUT_S = 2.0

DeclareQueue = Callable[[AbstractChannel], Awaitable[AbstractQueue]]


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
        declares_again: bool = False,
    ) -> None:
        """`prefetch`: deliveries that the broker may send ahead, see pipeline.broker.worker_settings. `watched`: more
        queues that `declare` declares, whose depth is worth knowing. `declares_again`: every few seconds, for a queue
        to which no one publishes who would be told that the way to it is gone.
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
        self._let_go = asyncio.Event()
        self._let_go.set()
        self._delivered = 0
        self._epoch = 0
        self._channel: aiormq.abc.AbstractChannel | None = None
        self._consumer_tag = ""
        self.queue_name = ""

    async def run(self) -> None:
        """Keep consuming until cancelled."""
        await keep_connected(self._settings, self._health, self._part, self._session)

    async def next(self) -> Batch | None:
        """The next batch, or None once the consumer was stopped and its buffer is empty.

        It is in hand until it is settled, or the next one is asked for.
        """
        self._put_down()
        while True:
            closed_by = await self._wait_until_closed()
            if self._buffer:
                return self._take(closed_by)
            if self._stopping:
                return None
            # A new epoch began while we lingered, and took the buffer with it.

    async def settle(self, batch: Batch) -> bool:
        """Acknowledge a batch: all of it is durably elsewhere. False if its epoch is over: it will come again."""
        self._put_down()
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
        async with answering():
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=self._prefetch)
            queue = await self._declare(channel)
        self.queue_name = queue.name
        lost = when_lost(connection, channel)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: _fail(lost, "the broker cancelled the consumer"))
        while True:
            await self._until_let_go(underlay, lost)
            await self._consume(underlay, lost, channel)
            await self._give_back(underlay)

    async def _until_let_go(self, channel: aiormq.abc.AbstractChannel, lost: asyncio.Future[None]) -> None:
        """Wait until the batch of an earlier epoch, if there is one, is no longer in hand."""
        if self._in_hand is None:
            return
        log.warning("consuming nothing before the batch in hand is done", queue=self.queue_name)
        self._forget()
        self._health.down(self._part, "consumes nothing before the batch in hand is done")
        letting_go = asyncio.create_task(self._let_go.wait())
        try:
            while self._in_hand is not None:
                either: set[asyncio.Future[Any]] = {lost, letting_go}
                await asyncio.wait(either, timeout=_DEPTH_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    lost.result()
                async with answering():
                    await self._look(channel)
        finally:
            letting_go.cancel()

    async def _consume(
        self, channel: aiormq.abc.AbstractChannel, lost: asyncio.Future[None], declaring: AbstractChannel
    ) -> None:
        """One epoch. It ends when a batch has been in hand for too long; raises BrokerLost when the channel is gone."""
        # No await from here to the start of basic_consume: what `stop` cancels must have begun, or never begin.
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
                # The first to notice that a node is frozen: heartbeats take 33 s for it. The broker may be slow for a
                # moment, so it gets seconds; past them all that is unacknowledged comes again, which costs a delivery.
                async with answering():
                    if self._declares_again:
                        await self._declare(declaring)
                    ready, consumers = await self._look(channel)
                if self._held_s() > self._limits.hold_s:
                    return
                if not self._stopping:
                    is_busy = self._in_hand is not None or bool(self._buffer)
                    seen = watchdog.look(ready=ready, consumers=consumers, delivered=self._delivered, is_busy=is_busy)
                    self._heed(seen, ready, consumers)
        finally:
            self._channel = None
            metrics.CONSUMER_STALLED.labels(self.queue_name).set(0)  # of this epoch; what ended it says so itself

    async def _give_back(self, channel: aiormq.abc.AbstractChannel) -> None:
        """Let the broker have all that is unacknowledged. What is in hand goes on being written."""
        log.error("held for too long; given back to the broker", queue=self.queue_name, held_s=round(self._held_s()))
        metrics.GIVEN_BACK.labels(self.queue_name).inc()
        self._forget()
        # First the consumer, or all of it would come back here at once.
        async with answering():
            await channel.basic_cancel(self._consumer_tag)
        await channel.basic_nack(0, multiple=True, requeue=True)

    async def _look(self, channel: aiormq.abc.AbstractChannel) -> tuple[int, int]:
        """How many messages are ready, and how many consume them."""
        for name in self._watched:
            metrics.QUEUE_DEPTH.labels(name).set((await _look_at(channel, name))[0])
        ready, consumers = await _look_at(channel, self.queue_name)
        metrics.QUEUE_DEPTH.labels(self.queue_name).set(ready)
        return ready, consumers

    def _heed(self, seen: Seen, ready: int, consumers: int) -> None:
        """Say what the watchdog has seen. Raises BrokerLost if a new session is all that is left to try."""
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
        """Empty the buffer."""
        self._buffer.clear()
        self._buffered_orders = self._buffered_bytes = 0
        if not self._stopping:
            self._arrived.clear()
            self._full.clear()

    def _put_down(self) -> None:
        self._in_hand = None
        self._let_go.set()

    def _held_s(self) -> float:
        """How long the batch in hand has been here; 0 if there is none."""
        return self._loop.time() - self._in_hand.arrived_at if self._in_hand is not None else 0.0

    async def _on_delivery(self, message: DeliveredMessage) -> None:
        # No await in here: the client starts a task for each delivery, and tags must enter the buffer in their order.
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
        self._let_go.clear()
        return self._in_hand

    def _reset_events(self) -> None:
        if self._stopping:
            return
        if not self._buffer:
            self._arrived.clear()
        if self._why_full() is None:
            self._full.clear()


async def _look_at(channel: aiormq.abc.AbstractChannel, queue: str) -> tuple[int, int]:
    """Messages ready and consumers, by a passive declare: the broker's CLI would start a virtual machine to answer."""
    declared = await channel.queue_declare(queue, passive=True)
    return declared.message_count or 0, declared.consumer_count or 0


def _fail(lost: asyncio.Future[None], why: str) -> None:
    if not lost.done():
        lost.set_exception(BrokerLost(why))
