"""Judges how far Redis's memory of idempotency keys can be believed, by asking the broker and the store.

Redis says when its memory began. An order that was accepted before may still be on its way to the store, and then
nobody remembers its key. `TrustJudge` finds out when no such order is left:

    COMPLETE   no order was accepted before: this process met the broker before any ingest_api had marked it, and the
               queue and the store are empty. Or both are empty, and no worker can hold a message any more
    SETTLED    all are stored: the queue is empty, and no worker can hold a message any more. Or an order is stored that
               this process took up after all earlier ones had been published

The process that finds out raises the level in Redis, for all (ingest_api.idempotency.claims).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from aiormq.exceptions import ChannelAccessRefused

from database.sessions import StoreUnavailable
from ingest_api.idempotency.accepted_orders import AcceptedOrders
from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.redis_trust import COMPLETE, NO_KEY_MEMORY, SETTLED, KeyMemory
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.topology import OpenChannel, begin_intake

log = structlog.get_logger()

# An ingest_api may publish an order this long after Redis has forgotten its claim.
_PUBLISHED_WITHIN_S = 10.0
# A live but stuck worker holds its batch for at most 600 s; then the batch may wait again before it is stored.
_GIVEN_BACK_WITHIN_S = 900.0
_LOOK_EVERY_S = 0.5
_ASK_AGAIN_S, _ASK_SETTLED_S = 0.03, 1.0
# How many of the latest orders without a key are looked for. Some may have been refused.
_PROBES = 8

Look = Callable[[], Awaitable[tuple[int, int] | None]]
"""How many messages are ready in orders.accepted, and how many consumers it has. None: the broker cannot be asked."""


# ── I/O below


class BrokerMark:
    """Marks the broker before the first publish on a connection.

    A broker without the mark has had no order of a release that marks. `TrustJudge` also wants its queue and the store
    to be empty, because older releases mark none.
    """

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._unused: KeyMemory = NO_KEY_MEMORY

    def was_absent_in(self, memory: KeyMemory) -> bool:
        """Whether this process found no mark after this memory had begun."""
        return memory is not NO_KEY_MEMORY and memory.began_ms == self._unused.began_ms

    async def meet(self, open_channel: OpenChannel) -> None:
        memory = await self._claims.look()
        try:
            if await begin_intake(open_channel):
                self._unused = memory
        except ChannelAccessRefused as error:
            log.warning(
                "this user may not mark the broker, so after each start orders with a key wait until one is stored",
                because=str(error),
            )


class TrustJudge:
    def __init__(
        self,
        ids: OrderIds,
        claims: Claims,
        accepted: AcceptedOrders,
        look: Look,
        mark: BrokerMark,
        *,
        remember_s: float,
    ) -> None:
        """`remember_s`: how long a claim is kept. A memory of that age has all keys."""
        self._ids, self._claims, self._accepted, self._look, self._mark = ids, claims, accepted, look, mark
        self._remember_s = remember_s
        self._now = asyncio.get_running_loop().time
        self._look_at, self._looking = 0.0, asyncio.Lock()
        self._probed_ms, self._probed_from = 0, ""
        self._probes: deque[str] = deque(maxlen=_PROBES)

    async def run(self) -> None:
        """Judge ahead, so that no request has to wait for it. Runs until cancelled."""
        began_ms, pause_s = -1, _ASK_AGAIN_S
        while True:
            memory = self._claims.memory
            if memory.began_ms != began_ms:
                began_ms, pause_s = memory.began_ms, _ASK_AGAIN_S
            if memory.level < SETTLED and (await self.settle(memory)).level < SETTLED:
                await self._probe(memory)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _ASK_SETTLED_S)

    def is_complete(self, memory: KeyMemory) -> bool:
        return memory.level == COMPLETE or (memory is not NO_KEY_MEMORY and memory.age_s() >= self._remember_s)

    async def settle(self, memory: KeyMemory) -> KeyMemory:
        """Look whether an earlier order can still be on its way; at most twice a second, for all callers.

        A caller that waited for another's look does not look again, so no caller waits for more than two looks.
        """
        if memory is NO_KEY_MEMORY:
            return memory
        async with self._looking:
            known = self._claims.memory
            if known.began_ms == memory.began_ms and known.level > memory.level:
                return known
            if (began := self._now()) < self._look_at:
                return memory
            found = None
            try:
                found = await self._look()
                return memory if found is None else await self._judged(memory, *found)
            finally:
                # A look that failed at once, because there is no broker yet, may be repeated soon.
                wait_s = _LOOK_EVERY_S if found is not None else max(_ASK_AGAIN_S, self._now() - began)
                self._look_at = self._now() + wait_s

    def learn_from(self, memory: KeyMemory, published_at: float) -> None:
        """Learn that an order published at this loop time is stored. If it followed all earlier ones, so are they."""
        if self._is_after_all_of(memory, published_at):
            self._raise(memory, SETTLED)

    async def _judged(self, memory: KeyMemory, ready: int, consumers: int) -> KeyMemory:
        """The memory, with the level that a look shows."""
        waited_s = min(self._now() - self._claims.memory_seen_at, memory.age_s())
        is_idle = not ready and (not consumers or waited_s >= _GIVEN_BACK_WITHIN_S)
        # An older release marks no broker, and its orders may be in the queue.
        is_unused = not ready and self._mark.was_absent_in(memory)
        if not (is_idle or is_unused):
            return memory
        # The store is asked last, so that what a worker stored during the look counts.
        if await self._accepted.are_none():
            return self._raise(memory, COMPLETE)
        return self._raise(memory, SETTLED) if is_idle and waited_s >= _PUBLISHED_WITHIN_S else memory

    async def _probe(self, memory: KeyMemory) -> None:
        """Learn from orders without a key: look whether one that this process mints from now on is stored."""
        if not self._is_after_all_of(memory, self._now()):
            return
        latest = self._ids.latest()
        if self._probed_ms != memory.began_ms:
            self._probed_ms, self._probed_from = memory.began_ms, latest
            self._probes.clear()
        if latest not in (self._probed_from, *self._probes):
            self._probes.append(latest)
        with suppress(StoreUnavailable):
            if self._probes and await self._accepted.find(list(self._probes)):
                self._raise(memory, SETTLED)

    def _is_after_all_of(self, memory: KeyMemory, loop_time: float) -> bool:
        """Whether every claim from before the memory began was published or given up by then."""
        return memory is not NO_KEY_MEMORY and loop_time > self._claims.memory_seen_at + _PUBLISHED_WITHIN_S

    def _raise(self, memory: KeyMemory, level: int) -> KeyMemory:
        self._claims.raise_to(memory, level)
        return KeyMemory(memory.began_ms, level, memory.now_ms)
