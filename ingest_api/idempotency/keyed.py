"""Orders with an Idempotency-Key (P5): at most one order, and each answer says what is, or will be, stored.
More than 300 lines: whether P5 holds can only be judged with all steps of a keyed request in view.

Three mechanisms:

    the id       derives from (client, key, what is ordered), so the primary key of `orders` allows one row
    the claim    holds the order's price and time. It is in Redis before the order is published. A retry in doubt
                 publishes exactly that again, so it does not matter which of the two is stored
    the store    is asked first. An order that is stored, or parked as a dead letter, is the answer while it is there

A key without a claim and without a row was never used, or its claim was lost before its order reached the store.
`KeyMemory` tells these apart, and ingest_api.idempotency.trust_judge finds out:

    complete     Redis remembers a whole lifetime of keys, or began when there were no orders. The key is new, even
                 while PostgreSQL is away
    settled      every order accepted before Redis's memory began is stored. The key is new if the store, asked once
                 this is known, says so
    unsettled    nobody can know. The order is published, and the answer waits until an order is stored: that one

So the answer to an unsettled key takes as long as the store does, some 50 ms. When the store is behind, it is 503
`outcome-unknown`, and a later retry gets the truth. The alternatives are worse. Refusing every keyed order until the
memory is settled would refuse all whose key is new. Answering at once could name a price that is never stored. Writing
each claim to PostgreSQL as well would cost every keyed order a commit, and tie intake to PostgreSQL.

Three gaps remain, all in the price and time that an answer names; none makes a second order:

    one of two persist_workers freezes with the order in hand, Redis forgets the claim, the ingest_api that took it dies
    too, and the price changes. Then the retry is stored first, and its answer is true; the first was not

    a key is older than a claim's lifetime, PostgreSQL is away, and the price has changed. The retry is published, and
    PostgreSQL keeps the first order

    one ingest_api cannot reach Redis and another can, and the retry reaches the other before the order is stored

Secret keys are replaced without a second order. Ids derive under every secret key, the store and the claims are asked
for each, and new orders get the first one's id. With several secret keys and an unsettled memory, an unknown key is
answered 503: its order may be on its way under either id. That ends within 15 minutes. A claim under a
secret key that this process does not have is 503 too: its order may exist, and the other processes know.

Costs: an order with a key adds one question to PostgreSQL, shared by all that wait. The question
makes an order with a key 1.6 times as expensive; docs/operate/idempotency.md has the figures. Other orders pay nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from database.sessions import StoreUnavailable
from ingest_api.idempotency.accepted_orders import AcceptedOrders
from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.records import (
    Claim,
    KeyConflict,
    Replay,
    Request,
    id_in,
    may_be_accepted,
    name_of,
    pack,
    unpack,
)
from ingest_api.idempotency.redis_trust import COMPLETE, NO_KEY_MEMORY, SETTLED, KeyMemory
from ingest_api.idempotency.trust_judge import TrustJudge
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import AnyOrder, Basket, Order
from web.problems import problems, unknown_outcomes
from web.problems.problems import Problem

_PROBLEMS = {KeyConflict.IN_FLIGHT: problems.request_in_flight, KeyConflict.REUSED: problems.key_reused}
# How often the store is asked for an order that is on its way to it.
_ASK_AGAIN_S = 0.03

Price = Callable[[Sequence[str], Sequence[Request]], Awaitable[list[AnyOrder | Problem]]]
"""Prices requests, given the ids of their orders. Raises Problem (503)."""
Publish = Callable[[Sequence[AnyOrder]], Awaitable[None]]
"""Returns once the broker has confirmed. Raises Problem (503)."""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A keyed request, decoded."""

    client: str
    key: str
    fingerprint: bytes
    requests: Sequence[Request]
    is_bulk: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of each of the requests."""

    status: int
    results: list[AnyOrder | Problem]
    is_replayed: bool


@dataclass(slots=True)
class _CandidateIds:
    """The ids of the orders under one secret key."""

    ids: list[str]

    @property
    def first(self) -> str:
        """The first id, as a claim has it."""
        return self.ids[0].replace("-", "")


# ── I/O below


class KeyedOrders:
    def __init__(
        self,
        ids: OrderIds,
        claims: Claims,
        accepted: AcceptedOrders,
        judge: TrustJudge,
        namespace: str,
        *,
        status: int,
        stored_within_s: float,
    ) -> None:
        """`status`: of the answer to an accepted order. `stored_within_s`: how long an answer waits for the store."""
        self._ids, self._claims, self._accepted, self._judge = ids, claims, accepted, judge
        self._namespace, self._status, self._stored_within_s = namespace, status, stored_within_s
        self._now = asyncio.get_running_loop().time

    async def accept(self, keyed: KeyedRequest, price: Price, publish: Publish) -> Answer:
        """Accept the orders, or find those accepted before. Raises Problem."""
        under = self._ids.derive_under_each(
            keyed.client, keyed.key, keyed.fingerprint.hex(), len(keyed.requests) if keyed.is_bulk else None
        )
        candidates = [_CandidateIds(it) for it in under]
        before = self._claims.memory
        found = await self._found(candidates)
        own, stored = found or (candidates[0], {})
        if stored and (all_stored := _all_stored(own, keyed.requests, stored)) is not None:
            return Answer(self._status, all_stored, is_replayed=True)
        priced = await self._priced(own, keyed.requests, stored, price)
        begun, memory = await self._begin(keyed, [own, *(it for it in candidates if it is not own)], priced)
        if isinstance(begun, KeyConflict):
            raise _PROBLEMS[begun]()
        if isinstance(begun, Replay):
            own = next(it for it in candidates if it.first == begun.order_id)
            return _replayed(begun, own, keyed.requests)
        try:
            if begun.in_doubt:
                claimed = next(it for it in candidates if it.first == begun.order_id)
                if stored and claimed is not own:
                    raise unknown_outcomes.stored_under_another_key()
                begun, priced = self._in_doubt(begun, claimed, keyed.requests, priced if claimed is own else None)
                own, is_sure = claimed, begun.is_sure
            else:
                is_new = await self._is_new(memory, found is not None, len(candidates))
                is_sure = is_new and await self._is_still_so(memory, before, candidates, stored)
        except BaseException:
            self._claims.give_up(begun, may_be_accepted=False, is_sure=begun.is_sure)
            raise
        return await self._publish(begun, memory, own, priced, stored, publish, is_sure=is_sure)

    def _in_doubt(
        self, claim: Claim, own: _CandidateIds, requests: Sequence[Request], priced: list[AnyOrder | Problem] | None
    ) -> tuple[Claim, list[AnyOrder | Problem]]:
        """The prices in the claim. If they cannot be read, `priced`, and the store has the last word.

        Raises Problem if there is no `priced` under these ids either.
        """
        try:
            return claim, unpack(claim.priced, own.ids, requests)[1]
        except ValueError:
            if priced is None:
                raise unknown_outcomes.claim_is_unreadable() from None
            return replace(claim, priced=pack(self._status, priced), is_sure=False), priced

    async def _publish(
        self,
        claim: Claim,
        memory: KeyMemory,
        own: _CandidateIds,
        priced: list[AnyOrder | Problem],
        stored: dict[str, AnyOrder],
        publish: Publish,
        *,
        is_sure: bool,
    ) -> Answer:
        orders = [it for it in priced if not isinstance(it, Problem) and it.id not in stored]
        if not orders:
            try:
                return await self._answer_without(claim, own, priced, stored, is_sure=is_sure)
            except BaseException:  # this request published nothing; an earlier doubt stays one
                self._claims.give_up(claim, may_be_accepted=False, is_sure=is_sure)
                raise
        began = self._now()
        try:
            if memory is NO_KEY_MEMORY:
                self._claims.published_without()
            await publish(orders)
            if not is_sure:
                priced = await self._as_stored(own.ids, priced, orders)
                self._judge.learn_from(memory, began)
        except BaseException as error:
            self._claims.give_up(claim, may_be_accepted=may_be_accepted(error), is_sure=is_sure)
            raise
        self._claims.remember(claim, pack(self._status, priced))
        return Answer(self._status, priced, is_replayed=False)

    async def _answer_without(
        self,
        claim: Claim,
        own: _CandidateIds,
        priced: list[AnyOrder | Problem],
        stored: dict[str, AnyOrder],
        *,
        is_sure: bool,
    ) -> Answer:
        """Answer when there is nothing to publish: each order is stored or refused. Raises Problem."""
        if not stored:
            if not is_sure:  # an order may be on its way that had a price then
                raise unknown_outcomes.refused_after_a_loss()
            self._claims.give_up(claim, may_be_accepted=False, is_sure=is_sure)
            return Answer(422, priced, is_replayed=False)
        priced = [stored.get(order_id, it) for order_id, it in zip(own.ids, priced, strict=True)]
        if not is_sure:  # the others may have been stored since the store was asked
            priced = await self._as_stored(own.ids, priced, [*stored.values()])
        self._claims.remember(claim, pack(self._status, priced))
        return Answer(self._status, priced, is_replayed=False)

    async def _found(self, candidates: list[_CandidateIds]) -> tuple[_CandidateIds, dict[str, AnyOrder]] | None:
        """The ids under which orders are stored, and these orders; None: the store cannot be asked.

        Refused requests are looked up as well: an older release may have accepted them.
        """
        # A complete memory knows a lifetime of keys, so nobody waits for a store that is away.
        is_complete = self._judge.is_complete(self._claims.memory)
        ids = [it for under in candidates for it in under.ids]
        try:
            stored = await self._accepted.find(ids, can_do_without=is_complete)
        except StoreUnavailable:
            return None
        for under in candidates:
            if theirs := {it: stored[it] for it in under.ids if it in stored}:
                return under, theirs
        return candidates[0], {}

    async def _priced(
        self, own: _CandidateIds, requests: Sequence[Request], stored: dict[str, AnyOrder], price: Price
    ) -> list[AnyOrder | Problem]:
        """Each order as it is stored, or priced now."""
        left = [(id_, it) for id_, it in zip(own.ids, requests, strict=True) if id_ not in stored]
        now = iter(await price([id_ for id_, _ in left], [it for _, it in left]))
        return [stored.get(order_id) or next(now) for order_id in own.ids]

    async def _begin(
        self, keyed: KeyedRequest, candidates: list[_CandidateIds], priced: list[AnyOrder | Problem]
    ) -> tuple[Claim | KeyConflict | Replay, KeyMemory]:
        """Claim the key. Refusals alone claim nothing: Redis is only asked whether there was an order before."""
        is_order = any(not isinstance(it, Problem) for it in priced)
        packed = pack(self._status, priced) if is_order else ""
        name = name_of(self._namespace, keyed.client, keyed.key, is_bulk=keyed.is_bulk)
        firsts, instead = [it.first for it in candidates], b""
        for _ in range(2):
            begun, memory = await self._claims.begin(name, firsts, packed, keyed.client, instead)
            if not isinstance(begun, bytes):
                return begun, memory
            if order_id := id_in(begun):
                if self._ids.is_ours(order_id):
                    return KeyConflict.REUSED, memory
                raise unknown_outcomes.claimed_under_another_key()
            instead = begun  # not a claim, whatever put it there
        raise unknown_outcomes.claim_is_unreadable()

    async def _is_new(self, memory: KeyMemory, is_asked: bool, keys: int) -> bool:
        """Whether a key that nobody remembers was never used; False: its order may be on its way. Raises Problem."""
        if not self._judge.is_complete(memory) and memory.level < SETTLED:
            memory = await self._judge.settle(memory)
        if self._judge.is_complete(memory):
            return True
        if not is_asked:
            raise problems.store_unavailable()
        if memory.level < SETTLED and keys > 1:
            raise unknown_outcomes.forgotten_while_keys_are_replaced()
        return memory.level >= SETTLED

    async def _is_still_so(
        self, memory: KeyMemory, before: KeyMemory, candidates: list[_CandidateIds], stored: dict[str, AnyOrder]
    ) -> bool:
        """Whether the store has no further orders since it was asked, which was before the memory was known settled.

        An order that was on its way then is stored by the time that the memory is settled.
        """
        now = self._claims.memory
        is_known = before.level >= SETTLED and before.began_ms == now.began_ms
        if is_known or self._judge.is_complete(memory) or (now.level == COMPLETE and now.began_ms == memory.began_ms):
            return True
        if (found := await self._found(candidates)) is None:
            raise problems.store_unavailable()
        own, orders = found
        if orders and own is not candidates[0] and not stored:
            # Its id differs from the claim's: the next retry finds it.
            raise unknown_outcomes.stored_under_another_key()
        return orders.keys() <= stored.keys()

    async def _as_stored(
        self, ids: Sequence[str], priced: list[AnyOrder | Problem], published: Sequence[AnyOrder]
    ) -> list[AnyOrder | Problem]:
        """Wait until every published order is stored, and return the stored ones. Raises Problem.

        An order refused now may have been accepted before, and is stored by then too.
        """
        awaited = {it.id for it in published}
        has_answered = False
        try:
            async with asyncio.timeout(self._stored_within_s):
                # persist_worker stores it, and tells no ingest_api.
                while not awaited <= (stored := await self._accepted.find(ids)).keys():
                    has_answered = True
                    await asyncio.sleep(_ASK_AGAIN_S)
        except StoreUnavailable as error:
            raise unknown_outcomes.store_is_silent(str(error)) from None
        except TimeoutError:
            if not has_answered:
                raise unknown_outcomes.store_is_silent("the store does not answer in time") from None
            raise unknown_outcomes.store_is_behind() from None
        return [stored.get(order_id, it) for order_id, it in zip(ids, priced, strict=True)]


def _all_stored(
    own: _CandidateIds, requests: Sequence[Request], stored: dict[str, AnyOrder]
) -> list[AnyOrder | Problem] | None:
    """Each order as it is stored, or its refusal; None: some are neither."""
    results = [stored.get(order_id, it) for order_id, it in zip(own.ids, requests, strict=True)]
    known = [it for it in results if isinstance(it, (Order, Basket, Problem))]
    return known if len(known) == len(results) else None


def _replayed(replay: Replay, own: _CandidateIds, requests: Sequence[Request]) -> Answer:
    """The first answer again. Raises Problem if it cannot be read: its orders are in the store, or will be."""
    try:
        return Answer(*unpack(replay.priced, own.ids, requests), is_replayed=True)
    except ValueError:
        raise unknown_outcomes.claim_is_unreadable() from None
