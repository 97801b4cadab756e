"""`dead replay`: dead letters back into the pipeline, each to the queue that it came from.

Taken and marked, sent and confirmed in one transaction, a few at a time. Whatever dies between, the mark is not there
and the letter goes on waiting: at the worst it is sent twice, and the primary keys make one order of that. What is
marked was confirmed. Two replays at once never take the same letter, and one that fails again is parked again.

Each letter is a message of its own, although a message could hold a thousand: what has brought a worker down would
bring its neighbours down with it once more.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aio_pika.abc import AbstractChannel

from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA, InvalidOrder, split_body
from proof.accounting_sql import Connection
from stack.operate.dead_sql import Filters, Taken, last_letter, put_back, take

KEYS = {"persist": topology.ORDER_ACCEPTED, "stock": topology.ORDER_CREATED}
"""Where a letter is sent, by its stage."""

# As many as are taken at once, and are in flight together.
_MOST_AT_ONCE = 50
# A worker that parks one of them again waits for our commit: let that be a matter of milliseconds, whatever the rate.
_AT_ONCE_S = 0.25

Send = Callable[[Taken], Awaitable[Outcome]]


@dataclass(slots=True)
class Replayed:
    """What became of the letters that were taken. All but the confirmed ones go on waiting."""

    confirmed: Counter[str] = field(default_factory=Counter)
    """By stage."""
    unconfirmed: Counter[Outcome] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        return self.confirmed.total() + self.unconfirmed.total()


def orders_in(letter: Taken) -> int:
    """How many orders its body has, for the header; 0 if that cannot be said."""
    try:
        return len(split_body(letter.body)) if letter.schema_version == SCHEMA else 0
    except InvalidOrder:
        return 0


def at_once(rate: float) -> int:
    """How many letters to take together at so many a second."""
    return max(1, int(min(_MOST_AT_ONCE, rate * _AT_ONCE_S)))


# ── I/O below


async def declare(channel: AbstractChannel) -> None:
    """The queues that letters go to: the broker may be another than the one that they came from."""
    await topology.declare_accepted(channel)
    await topology.declare_created(channel)


def send_by(publisher: Publisher) -> Send:
    async def send(letter: Taken) -> Outcome:
        return await publisher.publish(
            topology.ORDERS_EXCHANGE,
            KEYS[letter.stage],
            letter.body,
            orders=orders_in(letter),
            schema=letter.schema_version,
        )

    return send


async def replay(
    connection: Connection, send: Send, filters: Filters, done: Replayed, *, limit: int | None, rate: float
) -> None:
    """Replay what waits and is meant, the oldest first, at most `limit` letters and `rate` a second.

    Ends after the first letters of which one was not confirmed: the next would fare no better. What is parked
    meanwhile is left alone. `done` is kept up to date. Raises asyncpg errors, OSError: what was taken last goes on
    waiting then, and may have been sent.
    """
    last, after = await last_letter(connection), 0
    while True:
        began_s = time.monotonic()
        size = at_once(rate) if limit is None else min(at_once(rate), limit - done.count)
        taken = await _replay_some(connection, send, filters, after, last, size, done)
        if done.unconfirmed or len(taken) < size or done.count == limit:
            return
        after = taken[-1].id
        # From the beginning of these, not of all: a broker that was slow for a while is not hurried afterwards.
        await asyncio.sleep(max(0.0, began_s + size / rate - time.monotonic()))


async def _replay_some(
    connection: Connection, send: Send, filters: Filters, after: int, last: int, size: int, done: Replayed
) -> list[Taken]:
    async with connection.transaction():
        taken = await take(connection, filters, after, last, size)
        outcomes = await asyncio.gather(*map(send, taken))
        results = list(zip(taken, outcomes, strict=True))
        if others := [it.id for it, outcome in results if outcome is not Outcome.CONFIRMED]:
            await put_back(connection, others)
    done.confirmed.update(it.stage for it, outcome in results if outcome is Outcome.CONFIRMED)
    done.unconfirmed.update(outcome for outcome in outcomes if outcome is not Outcome.CONFIRMED)
    return taken
