"""BatchConsumer in whatever order things happen: deliveries, time, deaths of its channel, acks that fail, the stop.

Hypothesis looks for a sequence of them after which a promise is broken. Time stands still but where it is passed, and
the broker is a model of one, because this is about logic; what a real one does is in tests/integration.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiormq.exceptions import ChannelInvalidStateError
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.broker.batches import BatchConsumer
from pipeline.broker.connection import BrokerLost, is_broker_fault
from pipeline.broker.deliveries import Batch, BatchLimits, ClosedBy
from pipeline.process.health import Health
from tests.support.brokers.broker import broker_settings
from tests.support.brokers.queue_model import Channel, Message, Queue
from tests.support.time.frozen_time import FrozenLoop

# What the client's library raises on a dead channel, see pipeline.broker.connection.is_broker_fault.
_FAULTS: list[Callable[[], BaseException]] = [
    ChannelInvalidStateError,
    ConnectionResetError,
    Exception,
    asyncio.CancelledError,
]
faults = st.sampled_from(_FAULTS).map(lambda make: make())
# Less than the time between two looks at the queue: whatever is in hand at one of them was held for too long.
_HOLD_S = 3.0
messages = st.tuples(st.integers(1, 12), st.integers(2, 60))


class BatchMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = FrozenLoop()
        self.queue = Queue(self.on_ack)
        self.session: asyncio.Task[None] | None = None
        self.channel: Channel | None = None
        self.may_declare = asyncio.Event()
        self.taking: asyncio.Task[Batch | None] | None = None
        self.in_hand: Batch | None = None
        self.settling: Batch | None = None
        self.acks = self.batches = 0
        self.given: dict[int, int] = {}
        """How many deliveries of each epoch have been given in batches."""
        self.stopped = self.ended = False

    @initialize(
        orders=st.integers(1, 30),
        size_bytes=st.integers(1, 150),
        deliveries=st.integers(1, 6),
        linger_s=st.sampled_from([0.0, 0.025, 1.0]),
        stops_after=st.integers(0, 5),
    )
    def make(self, orders: int, size_bytes: int, deliveries: int, linger_s: float, stops_after: int) -> None:
        self.limits = BatchLimits(orders, size_bytes, deliveries, linger_s, _HOLD_S)
        self.stops_after = stops_after

        async def make() -> BatchConsumer:
            nobody, health = broker_settings("amqp://nobody"), Health("test", "consumer")
            return BatchConsumer(nobody, health, "consumer", self.declare, self.limits, prefetch=2 * deliveries)

        self.consumer = self.loop.done(make())
        self.connect(is_quick=True)

    async def declare(self, channel: Any) -> Any:
        await self.may_declare.wait()
        return channel

    # ── the broker

    @rule(batch=st.lists(messages, min_size=1, max_size=8), most=st.integers(1, 12))
    def publish(self, batch: list[tuple[int, int]], most: int) -> None:
        for orders, size_bytes in batch:
            self.queue.publish(orders, size_bytes)
        self.deliver(most)

    @precondition(lambda self: self.channel is not None and self.queue.ready)
    @rule(most=st.integers(1, 12))
    def deliver(self, most: int) -> None:
        if self.channel:
            self.channel.deliver(most)
        self.look()

    @precondition(lambda self: self.session is None)
    @rule(is_quick=st.booleans())
    def connect(self, is_quick: bool) -> None:
        self.may_declare.clear()
        if is_quick:
            self.may_declare.set()
        self.channel = Channel(self.queue, self.loop)
        self.session = self.loop.begin(self.consumer._session(self.channel))  # type: ignore[arg-type]  # a model
        self.look()

    @precondition(lambda self: not self.may_declare.is_set())
    @rule()
    def finish_declaring(self) -> None:
        self.may_declare.set()
        self.look()

    @precondition(lambda self: self.dead_channels())
    @rule(which=st.integers(0, 10))
    def deliver_from_the_grave(self, which: int) -> None:
        dead = self.dead_channels()
        dead[which % len(dead)].repeat(self.consumer._on_delivery)
        self.look()

    def dead_channels(self) -> list[Channel]:
        return [it for it in self.queue.channels if it.is_closed and self.queue.delivered[it.epoch]]

    @precondition(lambda self: self.channel is not None)
    @rule(error=st.none() | faults, is_back=st.booleans())
    def lose_the_channel(self, error: BaseException | None, is_back: bool) -> None:
        """None: the broker cancels the consumer."""
        assert self.channel
        if error is None:
            self.channel.cancel_consumer()
        else:
            self.channel.die(error)
        self.look()
        if is_back and self.session is None:
            self.connect(is_quick=True)

    @rule(seconds=st.sampled_from([0.001, 0.025, 0.5, 1.0, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.pass_time(seconds)
        self.look()

    # ── the worker: one batch in hand at any moment

    @precondition(lambda self: self.taking is None and self.in_hand is None)
    @rule()
    def take(self) -> None:
        self.taking = self.loop.begin(self.consumer.next())
        self.look()

    @precondition(lambda self: self.in_hand is not None)
    @rule()
    def hold(self) -> None:
        """The database is away."""
        self.pass_time(6.0)

    @precondition(lambda self: self.in_hand is not None)
    @rule(goes_on=st.booleans())
    def settle(self, goes_on: bool) -> None:
        self.settle_in_hand()
        if goes_on:
            self.take()

    @precondition(lambda self: self.in_hand is not None and self.channel is not None)
    @rule(error=faults)
    def settle_on_a_channel_that_has_just_died(self, error: BaseException) -> None:
        """Nobody has told the consumer yet: the ack is what finds out."""
        assert self.channel
        callbacks, self.channel.close_callbacks = self.channel.close_callbacks, set()
        self.channel.die(error)
        assert not self.settle_in_hand()
        for callback in callbacks:
            callback(None, error)
        self.look()

    @precondition(lambda self: not self.stopped and self.batches >= self.stops_after)
    @rule(late=st.integers(0, 4), error=st.none() | faults)
    def stop(self, late: int, error: BaseException | None) -> None:
        """`late`: deliveries that are on their way before the broker hears of it."""
        self.stopped = True
        if self.channel:
            channel = self.channel
            channel.before_cancel_ok = lambda: channel.die(error) if error else channel.deliver(late)
        self.loop.done(self.consumer.stop())
        self.look()

    # ── what must be, whatever has happened

    def settle_in_hand(self) -> bool:
        batch = self.settling = self.in_hand
        assert batch is not None
        before = self.acks
        is_acked = self.loop.done(self.consumer.settle(batch))
        assert self.acks == before + is_acked
        self.settling = self.in_hand = None
        self.look()
        return is_acked

    def on_ack(self, channel: Channel, tags: list[int]) -> None:
        assert self.settling is not None, "acknowledged before it was settled"
        assert channel.epoch == self.settling.epoch, "acknowledged on another channel"
        assert tags == [it.tag for it in self.settling.deliveries], "acknowledged more than the batch, or less"
        self.acks += 1

    def look(self) -> None:
        """At what has happened by itself."""
        self.loop.settle()
        if self.session and self.session.done():
            error = None if self.session.cancelled() else self.session.exception()
            assert error is None or is_broker_fault(error), error
            assert self.channel
            self.channel.die(BrokerLost())  # its connection is closed with it
            self.session = self.channel = None
            self.loop.settle()
        if self.taking and self.taking.done():
            batch, self.taking = self.taking.result(), None
            if batch is None:
                assert self.stopped
                assert not self.consumer._buffer, "ended before everything was given"
                self.ended = True
            else:
                self.check(batch)
                self.in_hand = batch
                self.batches += 1

    def check(self, batch: Batch) -> None:
        assert not self.ended, "given after the end"
        assert batch.epoch == self.consumer._epoch
        given, count = self.given.get(batch.epoch, 0), len(batch.deliveries)
        expected = self.queue.delivered[batch.epoch][given : given + count]
        assert [(it.tag, it.body) for it in batch.deliveries] == bodies_of(expected), "not in order, or not each once"
        self.given[batch.epoch] = given + count
        is_full = self.is_full([(it.orders, len(it.body)) for it in batch.deliveries])
        assert count
        assert count <= self.limits.deliveries
        assert count == 1 or not self.is_full([(it.orders, len(it.body)) for it in batch.deliveries[:-1]])
        assert is_full or not self.consumer._buffer, "room was left"
        if batch.closed_by in (ClosedBy.SIZE, ClosedBy.BYTES):
            assert is_full
        assert (batch.closed_by is ClosedBy.DRAIN) == self.stopped

    def is_full(self, parts: list[tuple[int, int]]) -> bool:
        orders, size_bytes = (sum(column) for column in zip(*parts, strict=True)) if parts else (0, 0)
        limits = self.limits
        return orders >= limits.orders or size_bytes >= limits.size_bytes or len(parts) >= limits.deliveries

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        places = [*(it.number for it in self.queue.ready), *self.queue.unacked(), *self.queue.acked]
        assert sorted(places) == [*range(self.queue.published)]

    @invariant()
    def what_was_delivered_and_not_given_is_in_the_buffer(self) -> None:
        """While its epoch lives. It comes again when that is over, and may be forgotten then, but not in part."""
        consumer, epoch = self.consumer, self.consumer._epoch
        waiting = self.queue.delivered[epoch][self.given.get(epoch, 0) :]
        if epoch in self.queue.over and not consumer._buffer:
            waiting = []
        assert [(it.tag, it.body) for _, it in consumer._buffer] == bodies_of(waiting)
        assert consumer._buffered_orders == sum(it.orders for _, it in waiting)
        assert consumer._buffered_bytes == sum(len(it.body) for _, it in waiting)

    @invariant()
    def whoever_waits_for_a_batch_gets_it_in_time(self) -> None:
        if self.taking is None:
            return
        assert not self.stopped
        buffer = self.consumer._buffer
        if buffer:
            assert not self.is_full([(it.orders, len(it.body)) for _, it in buffer])
            assert self.loop.time() < buffer[0][0] + self.limits.linger_s

    @invariant()
    def nothing_was_raised_where_nobody_looks(self) -> None:
        assert self.loop.errors == []

    def teardown(self) -> None:
        if hasattr(self, "consumer"):
            self.drain()
        self.loop.end()

    def drain(self) -> None:
        """After the stop everything that is buffered is given exactly once, and acknowledged if its channel lives."""
        if not self.stopped:
            self.stop(late=2, error=None)
        while not self.ended:
            if self.in_hand is None and self.taking is None:
                self.take()
            if self.in_hand is not None:
                self.settle_in_hand()
        epoch = self.consumer._epoch
        if epoch not in self.queue.over:
            assert self.given.get(epoch, 0) == len(self.queue.delivered[epoch])
        if self.channel is not None:
            assert self.channel.unacked == {}


def bodies_of(delivered: list[tuple[int, Message]]) -> list[tuple[int, bytes]]:
    return [(tag, it.body) for tag, it in delivered]


TestBatches = BatchMachine.TestCase
# Some thousands of steps. Without `explain`: its tracer makes the search for a shorter failure 20 times as slow.
TestBatches.settings = settings(max_examples=80, stateful_step_count=50, phases=(Phase.generate, Phase.shrink))
