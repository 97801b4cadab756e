"""Orders with an Idempotency-Key (P5): at most one order, and each answer says what is, or will be, stored.

Three mechanisms:

    the id       derives from (client, key, what is ordered), so the primary key of `orders` allows one row
    the claim    says what the order was priced at, and when. It is in Redis before the order is published. A retry in
                 doubt publishes exactly that again, so it does not matter which of the two is stored
    the store    is asked first. What is stored, or parked as a dead letter, is the answer, for as long as it is there

A key without a claim and without a row was never used, or its claim was lost while its order was on its way to the
store. `Memory` tells these apart:

    complete     Redis remembers a whole lifetime of keys, or began when there were no orders. The key is new, also
                 while PostgreSQL is away
    settled      all that was accepted before Redis's memory began is stored: its queue was empty and without consumers,
                 or an order that was published afterwards is stored. The key is new if the store says so
    unsettled    nobody can know. The order is published, and the answer waits until one is stored, and is that one

So the answer of an unsettled key takes as long as the store does, some 50 ms, and it is 503 `outcome-unknown` when the
store is behind: a retry later gets the truth. The other ways out are worse. To refuse every keyed order until the
memory is settled costs the orders of all whose key is new. To answer at once names a price that may not be stored. To
write each claim to PostgreSQL too costs every keyed order a commit, and ties intake to PostgreSQL.

What remains: of two persist_workers one is frozen with the order in hand, Redis forgets it, the ingest_api that took it
dies too, and the price changes. Then the retry is stored first, and its answer is true; the first answer was not.

Keys are replaced without a second order: ids derive under every secret key, the store and the claims are asked for
each, and new orders get the first one's. While the memory is unsettled and there are several, a key that nobody knows
is 503, because the order that may be on its way may have either id. That ends within a minute.

Costs: an order with a key costs one more question to PostgreSQL, shared by all that wait. Without a key, nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from database.sessions import StoreUnavailable
from ingest_api.accepted_orders import AcceptedOrders
from ingest_api.claims import COMPLETE, NO_MEMORY, SETTLED, Claims, Memory
from ingest_api.idempotency import Claim, Replay, Request, Taken, id_in, may_be_accepted, name_of, pack, unpack
from ingest_api.requests import OrderRequest
from pipeline.order_ids import OrderIds
from pipeline.orders import Order
from web import problems
from web.problems import Problem

_PROBLEMS = {Taken.IN_FLIGHT: problems.request_in_flight, Taken.REUSED: problems.key_reused}
# The store is asked so often for an order that is on its way to it.
_ASK_AGAIN_S = 0.03
# What an ingest_api claimed in the memory before may be published for so long afterwards.
_PUBLISHED_WITHIN_S = 10.0
# A frozen worker's messages are with another by then: two to three heartbeats.
_GIVEN_BACK_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.5
_ASK_SETTLED_S = 1.0

Price = Callable[[Sequence[str], Sequence[Request]], Awaitable[list[Order | Problem]]]
"""Prices requests, given the ids of their orders. Raises nothing."""
Publish = Callable[[Sequence[Order]], Awaitable[None]]
"""Returns once the broker has confirmed. Raises Problem (503)."""
Look = Callable[[], Awaitable[tuple[int, int] | None]]
"""How many messages are ready in orders.accepted, and how many consume it. None: nobody can be asked."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """A keyed request, read."""

    client: str
    key: str
    fingerprint: bytes
    requests: Sequence[Request]
    is_bulk: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of each of the requests."""

    status: int
    results: list[Order | Problem]
    is_replayed: bool


@dataclass(slots=True)
class _Under:
    """The ids of the orders under one secret key."""

    ids: list[str]

    @property
    def first(self) -> str:
        """As a claim has it."""
        return self.ids[0].replace("-", "")


# ── I/O below


class KeyedOrders:
    def __init__(
        self,
        ids: OrderIds,
        claims: Claims,
        accepted: AcceptedOrders,
        look: Look,
        namespace: str,
        *,
        status: int,
        remember_s: float,
        stored_within_s: float,
    ) -> None:
        """`status`: of the answer to what is accepted. `stored_within_s`: how long an answer waits for the store."""
        self._ids, self._claims, self._accepted, self._look = ids, claims, accepted, look
        self._namespace, self._status, self._remember_s = namespace, status, remember_s
        self._stored_within_s = stored_within_s
        self._now = asyncio.get_running_loop().time
        self._looked_at, self._looking = -_LOOK_EVERY_S, asyncio.Lock()
        self._began_ms, self._began_empty = -1, False

    async def accept(self, keyed: Keyed, price: Price, publish: Publish) -> Answer:
        """Accept the orders, or find those that were. Raises Problem."""
        under = self._ids.derive_under_each(
            keyed.client, keyed.key, keyed.fingerprint.hex(), len(keyed.requests) if keyed.is_bulk else None
        )
        candidates = [_Under(it) for it in under]
        found = await self._found(candidates, keyed.requests)
        own, stored = found or (candidates[0], {})
        if stored and len(stored) == sum(isinstance(it, OrderRequest) for it in keyed.requests):
            results = [_stored(*it, stored) for it in zip(own.ids, keyed.requests, strict=True)]
            return Answer(self._status, results, is_replayed=True)
        priced = await self._priced(own, keyed.requests, stored, price)
        begun, memory = await self._begin(keyed, [own, *(it for it in candidates if it is not own)], priced)
        if isinstance(begun, Taken):
            raise _PROBLEMS[begun]()
        if isinstance(begun, Replay):
            own = next(it for it in candidates if it.first == begun.order_id)
            return Answer(*unpack(begun.priced, own.ids, keyed.requests), is_replayed=True)
        try:
            if begun.in_doubt:
                own = next(it for it in candidates if it.first == begun.order_id)
                _, priced = unpack(begun.priced, own.ids, keyed.requests)
                is_sure = begun.is_sure
            else:
                is_sure = await self._is_new(memory, found is not None, len(candidates))
        except BaseException:
            self._claims.give_up(begun, may_be_accepted=False, is_sure=begun.is_sure)
            raise
        return await self._publish(begun, memory, own, priced, stored, publish, is_sure=is_sure)

    async def run(self) -> None:
        """Find out how far Redis's memory can be believed, before a request has to wait for it. Until cancelled."""
        while True:
            memory = self._claims.memory
            if memory.level < SETTLED:
                await self._settle(memory)
            has_looked = self._looked_at > self._claims.memory_seen_at
            await asyncio.sleep(_ASK_SETTLED_S if has_looked else _ASK_AGAIN_S)

    async def _publish(
        self,
        claim: Claim,
        memory: Memory,
        own: _Under,
        priced: list[Order | Problem],
        stored: dict[str, Order],
        publish: Publish,
        *,
        is_sure: bool,
    ) -> Answer:
        orders = [it for it in priced if isinstance(it, Order) and it.id not in stored]
        began = self._now()
        try:
            if not orders:
                if not is_sure:  # one that is on its way had a price then
                    raise problems.outcome_unknown()
                self._claims.give_up(claim, may_be_accepted=False, is_sure=is_sure)
                return Answer(self._status if stored else 422, priced, is_replayed=False)
            if memory is NO_MEMORY:
                self._claims.published_without()
            await publish(orders)
            if not is_sure:
                priced = await self._as_stored(own.ids, priced, orders)
                self._learn_from(memory, began)
        except BaseException as error:
            self._claims.give_up(claim, may_be_accepted=may_be_accepted(error), is_sure=is_sure)
            raise
        self._claims.remember(claim, pack(self._status, priced))
        return Answer(self._status, priced, is_replayed=False)

    async def _found(
        self, candidates: list[_Under], requests: Sequence[Request]
    ) -> tuple[_Under, dict[str, Order]] | None:
        """The ids under which orders are stored, and these orders; None: the store cannot be asked."""
        ids = [
            order_id
            for under in candidates
            for order_id, request in zip(under.ids, requests, strict=True)
            if isinstance(request, OrderRequest)
        ]
        try:
            stored = await self._accepted.find(ids) if ids else {}
        except StoreUnavailable:
            return None
        for under in candidates:
            if theirs := {it: stored[it] for it in under.ids if it in stored}:
                return under, theirs
        return candidates[0], {}

    async def _priced(
        self, own: _Under, requests: Sequence[Request], stored: dict[str, Order], price: Price
    ) -> list[Order | Problem]:
        """Each as it is stored, or as it costs now."""
        left = [(id_, it) for id_, it in zip(own.ids, requests, strict=True) if id_ not in stored]
        now = iter(await price([id_ for id_, _ in left], [it for _, it in left]))
        return [stored.get(order_id) or next(now) for order_id in own.ids]

    async def _begin(
        self, keyed: Keyed, candidates: list[_Under], priced: list[Order | Problem]
    ) -> tuple[Claim | Taken | Replay, Memory]:
        """Lay a claim. One refusal is not worth remembering: it is only looked whether there was an order before."""
        is_order = any(isinstance(it, Order) for it in priced)
        packed = pack(self._status, priced) if is_order else ""
        name = name_of(self._namespace, keyed.client, keyed.key, is_bulk=keyed.is_bulk)
        firsts, instead = [it.first for it in candidates], b""
        for _ in range(2):
            begun, memory = await self._claims.begin(name, firsts, packed, keyed.client, instead)
            if not isinstance(begun, bytes):
                return begun, memory
            if self._ids.is_ours(id_in(begun)):
                break
            instead = begun  # another deployment's, or nobody's
        return Taken.REUSED, memory

    async def _is_new(self, memory: Memory, is_asked: bool, keys: int) -> bool:
        """Whether a key that nobody remembers was never used; False: its order may be on its way. Raises Problem."""
        is_complete = memory.level == COMPLETE or (memory is not NO_MEMORY and memory.age_s() >= self._remember_s)
        if not is_complete and memory.level < SETTLED:
            memory = await self._settle(memory)
            is_complete = memory.level == COMPLETE
        if is_complete:
            return True
        if not is_asked:
            raise problems.store_unavailable()
        if memory.level < SETTLED and keys > 1:
            raise problems.outcome_unknown()
        return memory.level >= SETTLED

    async def _settle(self, memory: Memory) -> Memory:
        """Look whether anything from before can still be on its way; at most twice a second, for all who wait."""
        if memory is NO_MEMORY:
            return memory
        async with self._looking:
            known = self._claims.memory
            if known.began_ms == memory.began_ms and known.level > memory.level:
                return known
            if self._now() < self._looked_at + _LOOK_EVERY_S:
                return memory
            if self._began_ms != memory.began_ms:
                self._began_ms, self._began_empty = memory.began_ms, await self._accepted.are_none()
            found = await self._look()
            if found is None:
                return memory
            self._looked_at = self._now()
        ready, consumers = found
        waited_s = self._now() - self._claims.memory_seen_at
        if ready or (consumers and waited_s < _GIVEN_BACK_WITHIN_S):
            return memory
        return self._raise(memory)

    def _learn_from(self, memory: Memory, published_at: float) -> None:
        """An order that was published after all of before is stored, and so are they."""
        if memory is not NO_MEMORY and published_at > self._claims.memory_seen_at + _PUBLISHED_WITHIN_S:
            self._raise(memory)

    def _raise(self, memory: Memory) -> Memory:
        is_complete = self._began_empty and self._began_ms == memory.began_ms
        level = COMPLETE if is_complete else SETTLED
        self._claims.raise_to(memory, level)
        return Memory(memory.began_ms, level, memory.now_ms)

    async def _as_stored(
        self, ids: Sequence[str], priced: list[Order | Problem], published: Sequence[Order]
    ) -> list[Order | Problem]:
        """Wait until all that was published is stored, and take it from there. Raises Problem.

        What is refused now may have been accepted before, and is stored by then too.
        """
        awaited = {it.id for it in published}
        try:
            async with asyncio.timeout(self._stored_within_s):
                # Another process stores it, and nothing tells us.
                while not awaited <= (stored := await self._accepted.find(ids)).keys():  # noqa: ASYNC110
                    await asyncio.sleep(_ASK_AGAIN_S)
        except (TimeoutError, StoreUnavailable):
            raise problems.outcome_unknown() from None
        return [stored.get(order_id, it) for order_id, it in zip(ids, priced, strict=True)]


def _stored(order_id: str, request: Request, stored: dict[str, Order]) -> Order | Problem:
    return request if isinstance(request, Problem) else stored[order_id]
