"""P5: what a keyed request is told while Redis's memory, the store and the queue disagree."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from database.sessions import StoreUnavailable
from ingest_api.idempotency.keyed import Answer, Keyed, KeyedOrders
from ingest_api.idempotency.memory_judge import BrokerMark, MemoryJudge
from ingest_api.idempotency.records import Claim, Replay, Taken, judge, name_of
from ingest_api.idempotency.redis_memory import COMPLETE, NO_MEMORY, SETTLED, UNSETTLED, Memory
from ingest_api.requests import OrderRequest
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import Order
from web.problems import problems
from web.problems.problems import Problem

_OLD, _NEW = "o" * 40, "n" * 40
# Of a memory that is older than all that anybody waits for, and younger than a day.
_NOW_MS = 10_000_000


def _order(order_id: str, price: Decimal) -> Order:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Order(
        id=order_id,
        product_id="p",
        quantity=1,
        unit_price=price,
        total_price=price,
        created_at=at,
        status="PENDING",
    )


class _Claims:
    """As Redis keeps them, without Redis."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.memory, self.memory_seen_at = Memory(1, UNSETTLED, _NOW_MS), -1e9
        self.written_over = 0

    async def begin(
        self, name: str, ids: Sequence[str], priced: str, client: str, instead: bytes = b""
    ) -> tuple[Claim | Taken | Replay | bytes, Memory]:
        claim, held = Claim(name, ids[0], "o" * 16, priced), self.held.get(name, b"")
        if held and held == instead:
            held, self.written_over = b"", self.written_over + 1
        if not held and priced:
            self._put(claim, "u" if self.memory.level == UNSETTLED else "f", priced)
        return judge(held, claim, ids), self.memory

    def remember(self, claim: Claim, priced: str) -> None:
        self._put(claim, "d", priced)

    def give_up(self, claim: Claim, *, may_be_accepted: bool, is_sure: bool) -> None:
        if may_be_accepted or claim.in_doubt:
            self._put(claim, "?" if is_sure else "!", claim.priced)
        else:
            self.held.pop(claim.name, None)

    def raise_to(self, memory: Memory, level: int) -> None:
        self.memory = Memory(memory.began_ms, level, memory.now_ms)

    def published_without(self) -> None: ...

    def _put(self, claim: Claim, state: str, priced: str) -> None:
        self.held[claim.name] = f"{claim.order_id}{state}{claim.owner}{'0' * 26}{priced}".encode()


class _Store:
    def __init__(self) -> None:
        self.rows: dict[str, Order] = {}
        self.is_away = False
        self.late: dict[str, Order] = {}
        """Stored as soon as somebody has asked."""

    async def find(self, ids: Sequence[str], *, can_do_without: bool = False) -> dict[str, Order]:
        if self.is_away:
            raise StoreUnavailable("away")
        found = {it: self.rows[it] for it in ids if it in self.rows}
        self.rows |= self.late
        return found

    async def are_none(self) -> bool:
        return not self.rows and not self.is_away


class _Scene:
    def __init__(self, keys: str | Sequence[str] = _OLD, claims: _Claims | None = None) -> None:
        self.claims, self.store, self.published = claims or _Claims(), _Store(), list[Order]()
        self.queue: tuple[int, int] | None = 5, 1
        self.looks = 0
        self.look_s = 0.0
        self.prices: dict[str, Decimal] = {"p": Decimal(10)}
        self.told: Problem | None = None
        """The last 503 or 4xx."""
        self.ids = OrderIds(keys)
        held: Any = self.claims
        store: Any = self.store
        self.mark = BrokerMark(held)
        self.judge = MemoryJudge(self.ids, held, store, self._look, self.mark, remember_s=86_400)
        self.orders = KeyedOrders(self.ids, held, store, self.judge, "ns:", status=202, stored_within_s=0.1)

    async def order(self, *products: str, requests: Sequence[OrderRequest | Problem] = ()) -> Answer | str:
        requests = requests or [OrderRequest(it, 1) for it in products]
        keyed = Keyed("client", "key", b"f" * 16, requests, is_bulk=len(requests) > 1)
        try:
            return await self.orders.accept(keyed, self._price, self._publish)
        except Problem as problem:
            self.told = problem
            return problem.name

    def store_all(self) -> None:
        for order in self.published:
            self.store.rows.setdefault(order.id, order)

    async def _look(self) -> tuple[int, int] | None:
        self.looks += 1
        await asyncio.sleep(self.look_s)
        return self.queue

    async def _price(self, ids: Sequence[str], requests: Sequence[Any]) -> list[Order | Problem]:
        return [self._priced(*it) for it in zip(ids, requests, strict=True)]

    def _priced(self, order_id: str, request: OrderRequest | Problem) -> Order | Problem:
        if isinstance(request, Problem):
            return request
        if (price := self.prices.get(request.product_id)) is None:
            return problems.unknown_product(request.product_id)
        return _order(order_id, price)

    async def _publish(self, orders: Sequence[Order]) -> None:
        self.published += orders


def _told(answer: Answer | str) -> list[Decimal | str]:
    assert isinstance(answer, Answer), answer
    return [it.unit_price if isinstance(it, Order) else it.name for it in answer.results]


# ── in doubt


@pytest.mark.parametrize("level", [UNSETTLED, SETTLED, COMPLETE])
async def test_p5_a_bulk_in_doubt_is_answered_once_its_orders_are_stored(level: int) -> None:
    scene = _Scene()
    assert await scene.order("p", "unknown") == "outcome-unknown"
    scene.store_all()
    scene.claims.memory = Memory(1, level, _NOW_MS)
    answers = [await scene.order("p", "unknown") for _ in range(2)]
    assert [_told(it) for it in answers] == [[10, "unknown-product"]] * 2
    assert len(scene.published) == 1


async def test_p5_a_bulk_in_doubt_of_which_nothing_is_stored_is_not_answered_by_its_refusals() -> None:
    scene = _Scene()
    assert await scene.order("unknown", "another") == "outcome-unknown"
    assert not scene.published
    scene.claims.memory = Memory(1, SETTLED, _NOW_MS)  # nothing was left in doubt: it is refused now
    assert _told(await scene.order("unknown", "another")) == ["unknown-product"] * 2


# ── 503 outcome-unknown names what is unknown, and why


async def _unknown(scene: _Scene, *products: str) -> str:
    """The detail of the 503. Of none of them the broker is the cause: it has confirmed, or nothing was sent."""
    assert await scene.order(*products) == "outcome-unknown"
    assert scene.told is not None
    assert scene.told.retry_after_s == 1
    assert "broker" not in scene.told.detail
    assert "same Idempotency-Key" in scene.told.detail
    return scene.told.detail


async def test_p5_a_store_that_is_behind_is_named() -> None:
    assert "the database has not stored it in time" in await _unknown(_Scene(), "p")


@pytest.mark.parametrize("hangs", [False, True])
async def test_p5_a_store_that_goes_away_while_the_answer_waits_is_named(
    hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = _Scene()

    async def goes_away(orders: Sequence[Order]) -> None:
        scene.published += orders
        scene.store.is_away = True
        if hangs:
            monkeypatch.setattr(scene.store, "find", lambda _: asyncio.sleep(60))

    monkeypatch.setattr(scene, "_publish", goes_away)
    assert "the database does not answer" in await _unknown(scene, "p")


async def test_p5_a_refusal_that_an_order_from_before_may_contradict_names_redis() -> None:
    detail = await _unknown(_Scene(), "unknown")
    assert "would be refused now" in detail
    assert "Redis cannot be reached, or has lost its memory" in detail


async def test_p5_while_keys_are_replaced_and_redis_has_forgotten_both_are_named() -> None:
    detail = await _unknown(_Scene([_NEW, _OLD]), "p")
    assert "secret keys are being replaced" in detail
    assert "Redis cannot be reached, or has lost its memory" in detail


async def test_p5_an_order_that_appears_under_another_secret_key_names_these() -> None:
    scene = _Scene([_NEW, _OLD])
    _, (old_id,) = scene.ids.derive_under_each("client", "key", (b"f" * 16).hex())
    scene.store.rows["another"] = _order("another", Decimal(1))
    scene.store.late, scene.queue = {old_id: _order(old_id, Decimal(7))}, (0, 0)
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 20
    assert "secret keys are being replaced" in await _unknown(scene, "p")
    assert _told(await scene.order("p")) == [7], "the next one finds it"


async def test_p5_a_claim_in_doubt_under_another_secret_key_than_what_is_stored_names_these() -> None:
    scene = _Scene([_NEW, _OLD])
    new, old = scene.ids.derive_under_each("client", "key", (b"f" * 16).hex(), 2)
    scene.claims.memory = Memory(1, COMPLETE, _NOW_MS)
    scene.store.rows[new[0]] = _order(new[0], Decimal(7))
    name = name_of("ns:", "client", "key", is_bulk=True)
    scene.claims.held[name] = f"{old[0].replace('-', '')}?{'o' * 16}{'0' * 26}x".encode()
    assert "secret keys are being replaced" in await _unknown(scene, "p", "unknown")


@pytest.mark.parametrize("state", ["d", "?"])
async def test_p5_what_is_remembered_and_cannot_be_read_is_named(state: str) -> None:
    scene = _Scene([_NEW, _OLD])
    _, (old_id,) = scene.ids.derive_under_each("client", "key", (b"f" * 16).hex())
    scene.claims.memory = Memory(1, COMPLETE, _NOW_MS)
    name = name_of("ns:", "client", "key", is_bulk=False)
    scene.claims.held[name] = f"{old_id.replace('-', '')}{state}{'o' * 16}{'0' * 26}what is this?".encode()
    assert "cannot be read" in await _unknown(scene, "p")


# ── how far the memory is believed


async def test_p5_a_living_worker_may_hold_its_batch_for_as_long_as_the_broker_lets_it() -> None:
    scene = _Scene()
    scene.queue = 0, 1
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 800
    assert await scene.order("p") == "outcome-unknown"
    assert scene.claims.memory.level == UNSETTLED


async def test_p5_an_ingest_api_that_claimed_before_may_publish_for_a_while_although_nothing_consumes() -> None:
    scene = _Scene()
    scene.queue = 0, 0
    scene.store.rows["another"] = _order("another", Decimal(1))
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 5
    assert await scene.order("p") == "outcome-unknown"
    scene.claims.memory_seen_at -= 10
    await asyncio.sleep(0.6)
    scene.claims.held.clear()
    assert _told(await scene.order("p")) == [10]
    assert scene.claims.memory.level == SETTLED


async def test_p5_a_store_that_was_asked_before_the_memory_settled_is_asked_again() -> None:
    """What was on its way then is stored now, at the price of then."""
    scene = _Scene()
    (order_id,) = scene.ids.derive_under_each("client", "key", (b"f" * 16).hex())[0]
    before = _order(order_id, Decimal(7))
    scene.store.late, scene.queue = {order_id: before}, (0, 0)
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 20
    assert _told(await scene.order("p")) == [7]


async def test_p5_a_store_that_got_an_order_while_the_memory_settled_is_not_said_to_have_had_none() -> None:
    scene = _Scene()
    scene.queue = None
    await scene.judge.settle(scene.claims.memory)
    scene.store.rows["another"], scene.queue = _order("another", Decimal(1)), (0, 0)
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 20
    await asyncio.sleep(0.6)
    await scene.judge.settle(scene.claims.memory)
    assert scene.claims.memory.level == SETTLED


async def test_p5_on_a_broker_that_has_never_had_an_order_no_key_was_used_although_workers_consume() -> None:
    scene = _Scene()
    scene.queue = 0, 1
    scene.claims.memory_seen_at = asyncio.get_running_loop().time()
    scene.mark._unused = scene.claims.memory
    assert _told(await scene.order("unknown", "another")) == ["unknown-product"] * 2
    assert scene.claims.memory.level == COMPLETE


async def test_p5_a_memory_that_began_after_the_broker_was_marked_is_not_believed() -> None:
    scene = _Scene()
    scene.mark._unused = scene.claims.memory
    scene.claims.memory = Memory(2, UNSETTLED, _NOW_MS)
    assert await scene.order("unknown", "another") == "outcome-unknown"


async def test_p5_a_broker_that_has_no_mark_yet_is_not_believed_beside_a_store_that_has_orders() -> None:
    """An older release marks none."""
    scene = _Scene()
    scene.mark._unused = scene.claims.memory
    scene.store.rows["another"] = _order("another", Decimal(1))
    assert await scene.order("unknown", "another") == "outcome-unknown"


async def test_p5_a_broker_that_has_no_mark_yet_is_not_believed_while_its_queue_holds_something() -> None:
    """Orders that an older release accepted, and that no worker has stored."""
    scene = _Scene()
    scene.queue = 1, 1
    scene.mark._unused = scene.claims.memory
    assert await scene.order("unknown", "another") == "outcome-unknown"


async def test_p5_a_stored_order_without_a_key_settles_the_memory() -> None:
    """Only if it was minted after all that was claimed before can have been published."""
    scene = _Scene()
    memory, loop_time = scene.claims.memory, asyncio.get_running_loop().time
    scene.claims.memory_seen_at = loop_time()
    early = scene.ids.mint()
    scene.store.rows[early] = _order(early, Decimal(1))
    await scene.judge._probe(memory)
    scene.claims.memory_seen_at = loop_time() - 11
    for _ in range(2):
        await scene.judge._probe(memory)
        assert scene.claims.memory.level == UNSETTLED
    scene.ids.mint()  # and refused
    await scene.judge._probe(memory)
    assert scene.claims.memory.level == UNSETTLED
    late = scene.ids.mint()
    await scene.judge._probe(memory)
    assert scene.claims.memory.level == UNSETTLED
    scene.store.rows[late] = _order(late, Decimal(1))
    await scene.judge._probe(memory)
    assert scene.claims.memory.level == SETTLED


# ── looking


async def test_those_who_wait_behind_a_look_that_fails_do_not_look_one_after_the_other() -> None:
    scene = _Scene()
    scene.queue, scene.look_s = None, 0.2
    memory = scene.claims.memory
    async with asyncio.timeout(1):
        await asyncio.gather(*(scene.judge.settle(memory) for _ in range(20)))
    assert scene.looks == 1


@pytest.mark.parametrize("memory", [Memory(1, COMPLETE, _NOW_MS), NO_MEMORY])
async def test_who_never_has_to_look_sleeps(monkeypatch: pytest.MonkeyPatch, memory: Memory) -> None:
    scene = _Scene()
    scene.claims.memory, scene.claims.memory_seen_at = memory, asyncio.get_running_loop().time()
    naps: list[float] = []

    async def sleep(delay_s: float) -> None:
        naps.append(delay_s)
        if len(naps) == 20:
            raise asyncio.CancelledError

    monkeypatch.setattr("ingest_api.idempotency.memory_judge.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await scene.judge.run()
    assert sum(naps) > 10


# ── what other releases and other keys left


async def test_p5_a_replay_of_what_an_older_release_refused_is_refused() -> None:
    scene = _Scene()
    scene.claims.memory = Memory(1, COMPLETE, _NOW_MS)
    refused: list[OrderRequest | Problem] = [OrderRequest("p", 1), problems.invalid("#/quantity", "not this many")]
    first = await scene.order(requests=refused)
    second = await scene.order("p", "p")
    assert _told(second) == _told(first)
    assert len(scene.published) == 1


async def test_p5_a_claim_that_nobody_can_read_ends_in_what_is_stored() -> None:
    scene = _Scene()
    scene.claims.memory = Memory(1, COMPLETE, _NOW_MS)
    assert _told(await scene.order("p")) == [10]
    for state in "d!?":
        for name, held in scene.claims.held.items():
            scene.claims.held[name] = held[:32] + state.encode() + held[33:62] + b"what is this?"
        assert await scene.order("p") == "outcome-unknown"
    scene.store_all()
    assert _told(await scene.order("p")) == [10]
    assert len({it.id for it in scene.published}) == 1


async def test_p5_an_order_under_a_key_that_this_process_does_not_know_yet_is_not_written_over() -> None:
    new = _Scene([_NEW, _OLD])
    old = _Scene([_OLD], new.claims)
    old.store = new.store
    new.claims.memory = Memory(1, COMPLETE, _NOW_MS)
    assert _told(await new.order("p")) == [10]
    assert await old.order("p") == "outcome-unknown"
    assert not old.published
    assert not new.claims.written_over


async def test_a_value_that_is_no_claim_is_written_over() -> None:
    scene = _Scene()
    scene.claims.memory = Memory(1, COMPLETE, _NOW_MS)
    await scene.order("p")
    scene.claims.held = dict.fromkeys(scene.claims.held, b"?" * 80)
    assert _told(await scene.order("p")) == [10]
    assert scene.claims.written_over == 1
