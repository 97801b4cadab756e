"""KeyedOrders on a store, claims and a broker in memory, whose states the test sets."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from database.sessions import StoreUnavailable
from ingest_api.idempotency.keyed import Answer, KeyedOrders, KeyedRequest
from ingest_api.idempotency.records import Claim, KeyConflict, Replay, Request, judge
from ingest_api.idempotency.redis_trust import UNSETTLED, KeyMemory
from ingest_api.idempotency.trust_judge import BrokerMark, TrustJudge
from ingest_api.requests import OrderRequest
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import AnyOrder, Order
from web.problems import problems
from web.problems.problems import Problem

# The age of a memory of keys that is older than every wait, and younger than a day.
NOW_MS = 10_000_000
OLD_KEY, NEW_KEY = "o" * 40, "n" * 40


def order(order_id: str, price: Decimal) -> Order:
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


class FakeClaims:
    """Claims as Redis keeps them, in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.memory, self.memory_seen_at = KeyMemory(1, UNSETTLED, NOW_MS), -1e9
        self.written_over = 0

    async def begin(
        self, name: str, ids: Sequence[str], priced: str, client: str, instead: bytes = b""
    ) -> tuple[Claim | KeyConflict | Replay | bytes, KeyMemory]:
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

    def raise_to(self, memory: KeyMemory, level: int) -> None:
        self.memory = KeyMemory(memory.began_ms, level, memory.now_ms)

    def published_without(self) -> None: ...

    def _put(self, claim: Claim, state: str, priced: str) -> None:
        self.held[claim.name] = f"{claim.order_id}{state}{claim.owner}{'0' * 26}{priced}".encode()


class FakeStore:
    def __init__(self) -> None:
        self.rows: dict[str, AnyOrder] = {}
        self.is_away = False
        self.late: dict[str, AnyOrder] = {}
        """Stored as soon as somebody has asked."""

    async def find(self, ids: Sequence[str], *, can_do_without: bool = False) -> dict[str, AnyOrder]:
        if self.is_away:
            raise StoreUnavailable("away")
        found = {it: self.rows[it] for it in ids if it in self.rows}
        self.rows |= self.late
        return found

    async def are_none(self) -> bool:
        return not self.rows and not self.is_away


class KeyedScene:
    def __init__(self, keys: str | Sequence[str] = OLD_KEY, claims: FakeClaims | None = None) -> None:
        self.claims, self.store, self.published = claims or FakeClaims(), FakeStore(), list[AnyOrder]()
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
        self.judge = TrustJudge(self.ids, held, store, self._look, self.mark, remember_s=86_400)
        self.orders = KeyedOrders(self.ids, held, store, self.judge, "ns:", status=202, stored_within_s=0.1)

    async def order(self, *products: str, requests: Sequence[Request] = ()) -> Answer | str:
        requests = requests or [OrderRequest(it, 1) for it in products]
        keyed = KeyedRequest("client", "key", b"f" * 16, requests, is_bulk=len(requests) > 1)
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

    async def _price(self, ids: Sequence[str], requests: Sequence[Any]) -> list[AnyOrder | Problem]:
        return [self._priced(*it) for it in zip(ids, requests, strict=True)]

    def _priced(self, order_id: str, request: Request) -> AnyOrder | Problem:
        if isinstance(request, Problem):
            return request
        assert isinstance(request, OrderRequest)
        if (price := self.prices.get(request.product_id)) is None:
            return problems.unknown_product(request.product_id)
        return order(order_id, price)

    async def _publish(self, orders: Sequence[AnyOrder]) -> None:
        self.published += orders


def told(answer: Answer | str) -> list[Decimal | str]:
    assert isinstance(answer, Answer), answer
    return [it.name if isinstance(it, Problem) else it.total_price for it in answer.results]
