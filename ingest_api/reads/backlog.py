"""Counts the accepted orders that wait for their row, and for their verdict, in the process that accepted them.

A frozen worker reports nothing. The broker counts messages, each of up to a thousand orders, and without the management
plugin it does not report unacknowledged ones. So each ingest_api remembers the last order of each message that the
broker confirmed, and asks the database once a second which of them are there. A message is stored in one commit, so one
order stands for its message. An order counted as waiting does wait, or is lost. A deleted or purged queue, or a policy
that lets messages expire, shows as orders that wait for ever.

A message costs 1 µs, an order nothing. While nothing waits, nothing is asked. The count covers what this process
accepted since its start; the counts of several processes add up.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from database.sessions import StoreUnavailable
from pipeline.contract.orders import id_in
from pipeline.contract.topology import ORDERS_ACCEPTED_QUEUE, ORDERS_CREATED_QUEUE
from pipeline.process import metrics

_ASK_EVERY_S = 1.0
# Messages remembered one by one: 2,048 are 20 s of the busiest intake. Past that, two neighbours become one, and the
# later order stands for both.
_MOST = 2_048
# Messages in one question, the oldest first; each takes PostgreSQL some 10 µs.
_AT_ONCE = 512


@dataclass(slots=True)
class Message:
    """A confirmed message, or several neighbours merged into one."""

    last_order: bytes
    """Encoded, as in the message."""
    orders: int
    messages: int
    confirmed_at: float
    """Loop time; of the oldest, if merged."""
    is_stored: bool = False
    order_id: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in one queue."""

    orders: int = 0
    messages: int = 0
    oldest_s: float = 0.0


class Progress(Protocol):
    async def settled(self, order_ids: Sequence[str]) -> Mapping[str, bool]:
        """Which of the orders are stored or parked, and whether they are decided. Raises StoreUnavailable."""


class Backlog:
    def __init__(self) -> None:
        self._messages: deque[Message] = deque()

    def confirmed(self, encoded: Sequence[bytes], now: float) -> None:
        """Count a confirmed message of these orders: it is in orders.accepted."""
        self._messages.append(Message(encoded[-1], len(encoded), 1, now))
        if len(self._messages) > _MOST:
            self._merge()

    def to_ask(self) -> list[str]:
        """The orders that stand for the oldest waiting messages."""
        some = [message for message, _ in zip(self._messages, range(_AT_ONCE), strict=False)]
        for message in some:
            message.order_id = message.order_id or id_in(message.last_order) or ""
        return [message.order_id for message in some if message.order_id]

    def heard(self, settled: Mapping[str, bool]) -> None:
        """Take in the answer of `Progress.settled`."""
        for message in self._messages:
            if message.order_id in settled:
                message.is_stored = True
        decided = {order_id for order_id, is_decided in settled.items() if is_decided}
        self._messages = deque(message for message in self._messages if message.order_id not in decided)

    def waiting(self, now: float) -> dict[str, Waiting]:
        """What waits, by queue."""
        return {
            ORDERS_ACCEPTED_QUEUE: _sum([it for it in self._messages if not it.is_stored], now),
            ORDERS_CREATED_QUEUE: _sum([it for it in self._messages if it.is_stored], now),
        }

    @property
    def is_empty(self) -> bool:
        return not self._messages

    def _merge(self) -> None:
        """Merge each message with its neighbour. The later order stands for both."""
        old, self._messages = self._messages, deque()
        while old:
            first = old.popleft()
            if old and old[0].is_stored is first.is_stored:
                second = old.popleft()
                first = Message(
                    second.last_order,
                    first.orders + second.orders,
                    first.messages + second.messages,
                    first.confirmed_at,
                    second.is_stored,
                    second.order_id,
                )
            self._messages.append(first)


def _sum(messages: Collection[Message], now: float) -> Waiting:
    if not messages:
        return Waiting()
    oldest = min(it.confirmed_at for it in messages)
    return Waiting(sum(it.orders for it in messages), sum(it.messages for it in messages), now - oldest)


# ── I/O below


async def watch(backlog: Backlog, progress: Progress) -> None:
    """Feed the metrics and ask the database, until cancelled. While it is away, accepted orders still add up."""
    loop = asyncio.get_running_loop()
    _tell_metrics(backlog, loop)
    while True:
        began = loop.time()
        asked, settled = backlog.to_ask(), {}
        if asked:
            with suppress(StoreUnavailable):  # the endpoints that read orders log it
                settled = dict(await progress.settled(asked))
            backlog.heard(settled)
        # If all were decided, ask again at once: a backlog that is gone is counted off as fast as possible.
        is_behind = len(asked) == _AT_ONCE and all(settled.get(it) for it in asked)
        await asyncio.sleep(0 if is_behind else max(0.0, began + _ASK_EVERY_S - loop.time()))


def _tell_metrics(backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
    """Register the gauges. They are computed when they are read, so they include what was accepted a moment ago."""
    for queue in backlog.waiting(loop.time()):
        for gauge, name in (
            (metrics.BACKLOG_ORDERS, "orders"),
            (metrics.BACKLOG_MESSAGES, "messages"),
            (metrics.BACKLOG_OLDEST_SECONDS, "oldest_s"),
        ):
            gauge.labels(queue).set_function(partial(_figure, backlog, loop, queue, name))


def _figure(backlog: Backlog, loop: asyncio.AbstractEventLoop, queue: str, name: str) -> float:
    return float(getattr(backlog.waiting(loop.time())[queue], name))
