"""`dead replay`: sends dead letters back to the queues that they came from.

A few letters at a time are marked, sent and confirmed in one transaction. If anything dies in between, the mark is gone
and the letters wait again: at worst an order is sent twice, and the primary keys make it one. A marked letter was
confirmed. Two replays at once never take the same letter. A letter that fails again is parked again.

Each letter is a message of its own, although a message may hold a thousand orders: one that brought a worker down would
take its neighbours along again.
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
from pipeline.contract.orders import SCHEMAS, InvalidOrder, split_body
from proof.accounting_sql import Connection
from stack.operate.dead.sql import Filters, TakenLetter, last_letter, put_back, take

# Letters taken at once, all in flight together.
_MOST_AT_ONCE = 50
# A worker that parks one of them again waits for our commit, so a transaction must be short at any rate.
_AT_ONCE_S = 0.25

Send = Callable[[TakenLetter], Awaitable[Outcome]]


@dataclass(slots=True)
class Replayed:
    """The outcomes of a replay. Unconfirmed letters keep waiting."""

    confirmed: Counter[str] = field(default_factory=Counter)
    """By stage."""
    unconfirmed: Counter[Outcome] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        return self.confirmed.total() + self.unconfirmed.total()


def orders_in(letter: TakenLetter) -> int:
    """The number of orders in the body, for the message's header; 0 if it is unreadable."""
    try:
        return len(split_body(letter.body)) if letter.schema_version in SCHEMAS else 0
    except InvalidOrder:
        return 0


def at_once(rate: float) -> int:
    """How many letters to take at once for this rate (letters a second)."""
    return max(1, int(min(_MOST_AT_ONCE, rate * _AT_ONCE_S)))


# ── I/O below


async def declare(channel: AbstractChannel) -> None:
    """Declare the queues that letters go to. The broker may be another one than before."""
    await topology.declare_accepted(channel)
    await topology.declare_created(channel)
    await topology.declare_cancel_requested(channel)


def send_by(publisher: Publisher) -> Send:
    async def send(letter: TakenLetter) -> Outcome:
        return await publisher.publish(
            topology.ORDERS_EXCHANGE,
            topology.KEYS[letter.stage],
            letter.body,
            orders=orders_in(letter),
            schema=letter.schema_version,
        )

    return send


async def replay(
    connection: Connection, send: Send, filters: Filters, done: Replayed, *, limit: int | None, rate: float
) -> None:
    """Replay the matching letters that wait now, oldest first: at most `limit`, and `rate` a second.

    Ends after the first group with an unconfirmed letter: the next group would fare no better. Keeps `done` up to date.
    Raises asyncpg errors and OSError; the letters taken last then keep waiting, and may have been sent.
    """
    last, after = await last_letter(connection), 0
    while True:
        began_s = time.monotonic()
        size = at_once(rate) if limit is None else min(at_once(rate), limit - done.count)
        taken = await _replay_some(connection, send, filters, after, last, size, done)
        if done.unconfirmed or len(taken) < size or done.count == limit:
            return
        after = taken[-1].id
        # Paced from the start of this group: after a slow spell, the broker does not get the backlog in a burst.
        await asyncio.sleep(max(0.0, began_s + size / rate - time.monotonic()))


async def _replay_some(
    connection: Connection, send: Send, filters: Filters, after: int, last: int, size: int, done: Replayed
) -> list[TakenLetter]:
    async with connection.transaction():
        taken = await take(connection, filters, after, last, size)
        outcomes = await asyncio.gather(*map(send, taken))
        results = list(zip(taken, outcomes, strict=True))
        if others := [it.id for it, outcome in results if outcome is not Outcome.CONFIRMED]:
            await put_back(connection, others)
    done.confirmed.update(it.stage for it, outcome in results if outcome is Outcome.CONFIRMED)
    done.unconfirmed.update(outcome for outcome in outcomes if outcome is not Outcome.CONFIRMED)
    return taken
