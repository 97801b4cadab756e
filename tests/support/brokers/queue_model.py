"""A model of one queue and its channels, without a broker: for tests of pure logic with frozen time.

It does what AMQP promises: it delivers in order, leaves at most `prefetch` unacknowledged, and counts tags from 1 on
each channel. When a channel dies, unacknowledged messages return to their place. A callback gets what an ack settled.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

Callback = Callable[[DeliveredMessage], Any]


@dataclass(frozen=True)
class Message:
    number: int
    """Its position among all messages ever published."""
    orders: int
    size_bytes: int
    redelivered: bool = False

    @property
    def body(self) -> bytes:
        return (b"%d " % self.number).ljust(self.size_bytes, b"x")


@dataclass
class Queue:
    on_ack: Callable[["Channel", list[int]], None]
    """Called with the tags that an ack settled."""
    published: int = 0
    ready: deque[Message] = field(default_factory=deque)
    acked: set[int] = field(default_factory=set)
    channels: list["Channel"] = field(default_factory=list)
    delivered: dict[int, list[tuple[int, Message]]] = field(default_factory=lambda: defaultdict(list))
    """Epoch → tag and message of each delivery. An epoch is one life of a consumer: the number in its tag."""
    over: set[int] = field(default_factory=set)
    """Epochs that ended: their unacknowledged messages were requeued."""

    def publish(self, orders: int, size_bytes: int) -> None:
        self.ready.append(Message(self.published, orders, size_bytes))
        self.published += 1

    def unacked(self) -> list[int]:
        return [it.number for channel in self.channels for it in channel.unacked.values()]


class Channel:
    """A connection with its only channel: the broker's side, and the methods that a client calls."""

    def __init__(self, queue: Queue, loop: asyncio.AbstractEventLoop) -> None:
        queue.channels.append(self)
        self._queue, self._loop = queue, loop
        self._prefetch = 0
        self._callback: Callback | None = None
        self.name = "things"
        self.epoch = 0
        """The epoch of its consumer, even after the consumer is gone."""
        self._tags = 0
        self.unacked: dict[int, Message] = {}
        self.error: BaseException | None = None
        """Why the channel died. Every later call raises it."""
        self.close_callbacks: set[Callable[[object, BaseException | None], None]] = set()
        self.on_consumer_cancel_callbacks: set[Callable[[object], None]] = set()
        self.before_cancel_ok: Callable[[], None] = lambda: None

    @property
    def is_closed(self) -> bool:
        return self.error is not None

    # ── what the broker does

    def deliver(self, most: int) -> None:
        """Deliver up to `most` messages, within the prefetch. The client starts a task for each."""
        while most and self._queue.ready and self._callback and len(self.unacked) < self._prefetch:
            message = self._queue.ready.popleft()
            self._tags += 1
            self.unacked[self._tags] = message
            self._queue.delivered[self.epoch].append((self._tags, message))
            self._send(self._tags, message, self._callback)
            most -= 1

    def repeat(self, callback: Callback) -> None:
        """Deliver bytes that were in flight when the channel died."""
        self._send(*self._queue.delivered[self.epoch][-1], callback)

    def cancel_consumer(self) -> None:
        """Cancel the consumer from the broker's side: the queue was deleted, or its leader lost."""
        self._callback = None
        for callback in self.on_consumer_cancel_callbacks:
            callback(None)

    def die(self, error: BaseException) -> None:
        """Kill the channel. Unacknowledged messages return to their place."""
        if self.error is None:
            self.error, self._callback = error, None
            self._requeue()
            for callback in list(self.close_callbacks):
                callback(None, error)

    def _requeue(self) -> None:
        self._queue.ready.extendleft(replace(it, redelivered=True) for it in reversed(self.unacked.values()))
        self.unacked.clear()
        self._queue.over.add(self.epoch)

    def _send(self, tag: int, message: Message, callback: Callback) -> None:
        frame = Basic.Deliver("consumer", tag, message.redelivered, "exchange", "key")
        properties = Basic.Properties(headers={"schema": 1, "orders": message.orders})
        delivered: Any = DeliveredMessage(
            delivery=frame,
            header=ContentHeader(properties=properties),
            body=message.body,
            channel=self,  # type: ignore[arg-type]  # as much of one as is needed
        )
        self._loop.create_task(callback(delivered))

    # ── what the client asks

    async def channel(self, **_: object) -> "Channel":
        self._raise_if_dead()
        return self

    async def get_underlay_channel(self) -> "Channel":
        return self

    async def set_qos(self, prefetch_count: int) -> None:
        self._raise_if_dead()
        self._prefetch = prefetch_count

    async def basic_consume(self, _: str, callback: Callback, *, consumer_tag: str) -> None:
        self._raise_if_dead()
        self._callback, self.epoch = callback, int(consumer_tag.rpartition("-")[2])

    async def basic_cancel(self, _: str, **__: object) -> None:
        self.before_cancel_ok()
        self._raise_if_dead()
        self._callback = None

    async def basic_ack(self, delivery_tag: int, *, multiple: bool, **_: object) -> None:
        self._raise_if_dead()
        assert delivery_tag in self.unacked, "the broker would close the channel"
        tags = [tag for tag in self.unacked if tag == delivery_tag or (multiple and tag < delivery_tag)]
        self._queue.on_ack(self, tags)
        self._queue.acked |= {self.unacked.pop(tag).number for tag in tags}

    async def basic_nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        """Requeue all unacknowledged messages. Other uses are not modelled."""
        assert (delivery_tag, multiple, requeue) == (0, True, True)
        self._raise_if_dead()
        self._requeue()

    async def queue_declare(self, _: str, **__: object) -> Any:
        self._raise_if_dead()
        return SimpleNamespace(message_count=len(self._queue.ready), consumer_count=int(self._callback is not None))

    def _raise_if_dead(self) -> None:
        if self.error is not None:
            raise self.error
