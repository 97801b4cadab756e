"""What the door knows of products: one lookup for each id, freshness, events, and bounds."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from decimal import Decimal

import pytest

from database.sessions import StoreUnavailable
from ingest_api.prices.catalogue import Catalogue, Found, Product
from ingest_api.settings import IngestSettings
from pipeline.contract.product_events import ProductEvent
from pipeline.process.shares import Busy
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually

A, B, C = (f"00000000-0000-4000-8000-00000000000{digit}" for digit in "abc")

TTL_S, UNKNOWN_TTL_S, MAX_STALE_S = 30.0, 2.0, 600.0

_ADDRESSES = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "AMQP_URL": "amqp://nobody@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "ORDER_ID_KEY": "6b" * 32,
}


def some_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def product(
    product_id: str, version: int = 1, price: str = "9.99", qty: int = 5, deleted: bool = False
) -> ProductEvent:
    return ProductEvent(product_id, version, Decimal(price), qty, deleted)


class Store:
    """Answers lookups at once, or, while `gate` is closed, with what was there when it was asked."""

    def __init__(self) -> None:
        self.products: dict[str, ProductEvent] = {}
        self.asked: list[str] = []
        self.known_versions: list[int] = []
        self.is_away, self.age_s = False, 0.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, known_versions: Mapping[str, int]) -> dict[str, Found | None]:
        self.asked += known_versions
        self.known_versions += known_versions.values()
        is_away, found = self.is_away, {it: self._found(it) for it in known_versions}
        await self.gate.wait()
        return {} if is_away else found

    def _found(self, product_id: str) -> Found | None:
        state = self.products.get(product_id)
        return Found(state, self.age_s) if state else None


class Door:
    """A catalogue, the store behind it, and a clock that the test moves."""

    def __init__(self, **changes: object) -> None:
        bounds = {"catalogue_ttl_s": TTL_S, "catalogue_unknown_ttl_s": UNKNOWN_TTL_S}
        settings = settings_from(IngestSettings, _ADDRESSES, **bounds, catalogue_max_stale_s=MAX_STALE_S, **changes)
        self.store, self.now = Store(), 1000.0
        self.catalogue = Catalogue(settings, self.store.load)
        self.catalogue._now = lambda: self.now

    async def price(self, product_id: str) -> Decimal | None:
        return (await self.catalogue.find(product_id, "")).price

    async def ask_slowly(self, product_id: str) -> "asyncio.Task[Product]":
        """A lookup that has taken its answer from the store and not yet brought it back."""
        self.store.gate.clear()
        asked = len(self.store.asked)
        finding = asyncio.create_task(self.catalogue.find(product_id, ""))
        await eventually(lambda: len(self.store.asked) > asked)
        return finding


@pytest.fixture
async def door() -> Door:
    return Door()


# ── lookups


async def test_a_product_is_looked_up_once_and_then_known_without_io(door: Door) -> None:
    door.store.products[A] = product(A)
    assert door.catalogue.get(A) is None
    found = await door.catalogue.find(A, "")
    assert (found.price, found.sold_out, found.version) == (Decimal("9.99"), False, 1)
    assert door.catalogue.get(A) is found
    assert await door.catalogue.find(A, "") is found
    assert door.store.asked == [A]


async def test_a_thousand_who_ask_at_once_share_one_lookup(door: Door) -> None:
    door.store.products[A] = product(A)
    first = await door.ask_slowly(A)
    others = [asyncio.create_task(door.catalogue.find(A, "")) for _ in range(1000)]
    await asyncio.sleep(0)
    door.store.gate.set()
    found = await asyncio.gather(first, *others)
    assert {it.price for it in found} == {Decimal("9.99")}
    assert door.store.asked == [A]


async def test_different_products_are_looked_up_at_the_same_time(door: Door) -> None:
    door.store.products = {A: product(A), B: product(B, price="1")}
    first, second = await door.ask_slowly(A), await door.ask_slowly(B)
    door.store.gate.set()
    assert [it.price for it in await asyncio.gather(first, second)] == [Decimal("9.99"), Decimal(1)]


async def test_one_who_gives_up_does_not_cancel_the_lookup_of_the_others(door: Door) -> None:
    door.store.products[A] = product(A)
    first = await door.ask_slowly(A)
    second = asyncio.create_task(door.catalogue.find(A, ""))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    door.store.gate.set()
    assert (await second).price == Decimal("9.99")
    assert door.store.asked == [A]


async def test_a_failed_lookup_fails_all_who_wait_for_it_and_nobody_after(door: Door) -> None:
    door.store.products[A] = product(A)
    door.store.is_away = True
    first = await door.ask_slowly(A)
    second = asyncio.create_task(door.catalogue.find(A, ""))
    await asyncio.sleep(0)
    door.store.gate.set()
    errors = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(error) for error in errors] == [StoreUnavailable, StoreUnavailable]
    door.store.is_away = False
    assert await door.price(A) == Decimal("9.99")


# ── freshness


async def test_after_the_ttl_it_is_asked_again(door: Door) -> None:
    door.store.products[A] = product(A)
    await door.price(A)
    door.store.products[A] = product(A, version=2, price="12.50")
    door.now += TTL_S - 0.001
    assert await door.price(A) == Decimal("9.99")
    door.now += 0.001
    assert await door.price(A) == Decimal("12.50")


async def test_a_store_that_was_restored_from_a_backup_is_believed_after_the_ttl(door: Door) -> None:
    door.store.products[A] = product(A, version=7, price="7")
    await door.price(A)
    door.store.products[A] = product(A, version=6, price="6")
    door.now += TTL_S
    assert await door.price(A) == Decimal(6)
    assert door.catalogue.get(A) is not None
    assert door.store.known_versions == [0, 7]  # so that a cache which is behind is not taken for that


async def test_a_product_that_the_store_has_no_more_does_not_sell_when_it_is_away(door: Door) -> None:
    door.store.products[A] = product(A)
    await door.price(A)
    door.store.products.clear()
    door.now += TTL_S
    assert await door.price(A) is None
    door.store.is_away = True
    door.now += UNKNOWN_TTL_S
    with pytest.raises(StoreUnavailable):
        await door.price(A)


async def test_distrust_asks_again_for_everything(door: Door) -> None:
    door.store.products[A] = product(A)
    await door.price(A)
    await door.price(B)
    door.catalogue.distrust()
    door.store.products = {A: product(A, version=2, price="2"), B: product(B)}
    assert await door.price(A) == Decimal(2)
    assert await door.price(B) == Decimal("9.99")


# ── while nobody can be asked


async def test_an_old_price_sells_while_the_store_is_away_up_to_the_bound(door: Door) -> None:
    door.store.products[A] = product(A)
    await door.price(A)
    door.store.is_away = True
    door.now += TTL_S + MAX_STALE_S - 1
    assert await door.price(A) == Decimal("9.99")
    door.now += 1
    with pytest.raises(StoreUnavailable):
        await door.price(A)


async def test_an_old_price_is_used_for_a_while_before_the_store_is_tried_again(door: Door) -> None:
    """A database that hangs costs a lookup its whole deadline: not every order may pay that."""
    door.store.products[A] = product(A)
    await door.price(A)
    door.store.is_away = True
    door.now += TTL_S
    for _ in range(100):
        await door.price(A)
    assert door.store.asked == [A, A]
    door.store.is_away = False
    door.store.products[A] = product(A, version=2, price="2")
    door.now += 1
    assert await door.price(A) == Decimal(2)


async def test_an_old_price_sells_at_once_while_the_store_does_not_answer(door: Door) -> None:
    """One question goes on; the first order waits for a moment, and those after it not at all."""
    door.store.products[A] = product(A)
    await door.price(A)
    door.now += TTL_S
    door.store.products[A] = product(A, version=2, price="2")
    door.store.gate.clear()
    began = time.monotonic()
    assert await door.price(A) == Decimal("9.99")
    assert time.monotonic() - began < 0.5
    for _ in range(100):
        selling = asyncio.create_task(door.price(A))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert selling.done()
    assert door.store.asked == [A, A]
    door.store.gate.set()
    await eventually(lambda: door.catalogue.get(A))
    assert await door.price(A) == Decimal(2)


async def test_an_old_price_does_not_sell_while_the_store_answers_in_time(door: Door) -> None:
    """P7: however old it may become while nobody can be asked."""
    door.store.products[A] = product(A)
    await door.price(A)
    door.now += TTL_S
    door.store.products[A] = product(A, version=2, price="2")
    selling = await door.ask_slowly(A)
    door.store.gate.set()
    assert (await selling).price == Decimal(2)


async def test_what_was_never_known_is_waited_for_beside_what_is_old(door: Door) -> None:
    door.store.products = {A: product(A), B: product(B)}
    await door.price(A)
    door.now += TTL_S
    door.store.gate.clear()
    finding = asyncio.create_task(door.catalogue.find_all([A, B], ""))
    await eventually(lambda: door.store.asked == [A, A, B])
    door.store.gate.set()
    assert set(await finding) == {A, B}


async def test_of_many_those_that_nobody_can_be_asked_about_are_left_out(door: Door) -> None:
    door.store.products = {A: product(A), B: product(B)}
    await door.price(A)
    door.store.is_away = True
    door.now += TTL_S
    assert {id_: it.price for id_, it in (await door.catalogue.find_all([A, B], "")).items()} == {A: Decimal("9.99")}


async def test_distrust_does_not_stop_a_known_product_from_selling_while_the_store_is_away(door: Door) -> None:
    door.store.products[A] = product(A)
    await door.price(A)
    door.store.is_away = True
    door.catalogue.distrust()
    assert await door.price(A) == Decimal("9.99")


async def test_what_was_never_known_cannot_be_sold_while_the_store_is_away(door: Door) -> None:
    door.store.is_away = True
    with pytest.raises(StoreUnavailable):
        await door.price(A)


# ── ids that are not products


async def test_an_unknown_id_is_asked_for_once_in_a_while(door: Door) -> None:
    assert await door.price(A) is None
    assert await door.price(A) is None
    assert door.store.asked == [A]
    door.now += UNKNOWN_TTL_S
    door.store.products[A] = product(A)
    assert await door.price(A) == Decimal("9.99")


async def test_a_flood_of_unknown_ids_stays_bounded_and_pushes_no_product_out() -> None:
    door = Door(catalogue_max_unknown=10, catalogue_max_products=2)
    door.store.products = {A: product(A), B: product(B)}
    await door.price(A)
    await door.price(B)
    for number in range(100):
        await door.price(f"00000000-0000-4000-8000-{number:012}")
    assert len(door.catalogue._unknown) == 10
    assert door.catalogue.get(A) is not None
    assert door.catalogue.get(B) is not None


async def test_look_ups_are_bounded_and_those_past_the_bound_are_refused_and_cost_nothing() -> None:
    door = Door(max_lookups=4)
    door.store.products[A] = product(A)
    await door.price(A)
    door.store.gate.clear()
    first = asyncio.create_task(door.catalogue.find_all(some_ids(4), ""))
    await eventually(lambda: len(door.store.asked) == 5)
    for _ in range(100):
        with pytest.raises(Busy):
            await door.catalogue.find_all(some_ids(2), "")
    assert len(door.store.asked) == 5
    door.now += TTL_S
    assert await door.price(A) == Decimal("9.99")  # there is no place to ask, and an old price
    door.store.gate.set()
    assert all(it.price is None for it in (await first).values())
    assert await door.price(A) == Decimal("9.99")
    assert len(await door.catalogue.find_all(some_ids(4), "")) == 4


async def test_products_are_bounded_too_and_the_one_held_longest_goes() -> None:
    door = Door(catalogue_max_products=2)
    door.store.products = {A: product(A), B: product(B), C: product(C)}
    for product_id in (A, B, C):
        await door.price(product_id)
    assert [door.catalogue.get(it) is not None for it in (A, B, C)] == [False, True, True]


async def test_a_deleted_product_has_no_price(door: Door) -> None:
    door.store.products[A] = product(A, deleted=True)
    assert await door.price(A) is None


# ── events


@pytest.fixture
async def selling(door: Door) -> Door:
    """A is known, at version 5."""
    door.store.products[A] = product(A, version=5)
    await door.price(A)
    return door


@pytest.mark.parametrize(
    ("event", "price", "sold_out"),
    [
        (product(A, version=6, price="3.00"), Decimal(3), False),
        (product(A, version=6, qty=0), Decimal("9.99"), True),
        (product(A, version=6, deleted=True), None, False),
        (product(A, version=5, price="3.00", qty=0), Decimal("9.99"), False),
        (product(A, version=4, price="3.00", qty=0), Decimal("9.99"), False),
        (product(B, version=6, price="3.00", qty=0), Decimal("9.99"), False),
    ],
    ids=["price", "sold out", "deleted", "same version", "older version", "another product"],
)
async def test_an_event_counts_if_it_is_newer(
    selling: Door, event: ProductEvent, price: Decimal | None, sold_out: bool
) -> None:
    selling.catalogue.apply(event)
    held = selling.catalogue.get(A)
    assert held is not None
    assert (held.price, held.sold_out) == (price, sold_out)
    assert selling.store.asked == [A]


async def test_a_restock_opens_the_door_again(selling: Door) -> None:
    selling.catalogue.apply(product(A, version=6, qty=0))
    selling.catalogue.apply(product(A, version=7, qty=10))
    held = selling.catalogue.get(A)
    assert held is not None
    assert not held.sold_out


async def test_a_sold_out_that_a_restock_has_overtaken_does_not_close_the_door(selling: Door) -> None:
    selling.catalogue.apply(product(A, version=7, qty=10))
    selling.catalogue.apply(product(A, version=6, qty=0))
    held = selling.catalogue.get(A)
    assert held is not None
    assert not held.sold_out


async def test_an_event_makes_fresh(selling: Door) -> None:
    selling.now += TTL_S - 1
    selling.catalogue.apply(product(A, version=6))
    selling.now += TTL_S - 1
    assert selling.catalogue.get(A) is not None


async def test_events_about_products_that_nobody_orders_are_not_held(door: Door) -> None:
    door.catalogue.apply(product(A))
    assert not door.catalogue._products


async def test_the_event_of_a_creation_ends_the_negative_answer(door: Door) -> None:
    assert await door.price(A) is None
    door.store.products[A] = product(A)
    door.catalogue.apply(product(A))
    assert await door.price(A) == Decimal("9.99")


# ── an event that overtakes a lookup


async def test_an_event_beats_the_older_answer_of_a_repeated_lookup(selling: Door) -> None:
    selling.now += TTL_S
    finding = await selling.ask_slowly(A)
    selling.catalogue.apply(product(A, version=6, qty=0))
    selling.store.gate.set()
    assert (await finding).sold_out
    held = selling.catalogue.get(A)
    assert held is not None
    assert held.version == 6


async def test_an_event_beats_the_older_answer_of_a_first_lookup(door: Door) -> None:
    """Or the door would stay shut for a whole TTL after a restock."""
    door.store.products[A] = product(A, version=1, qty=0)
    finding = await door.ask_slowly(A)
    door.catalogue.apply(product(A, version=2, qty=10))
    door.store.gate.set()
    assert not (await finding).sold_out
    held = door.catalogue.get(A)
    assert held is not None
    assert held.version == 2


async def test_a_creation_beats_the_answer_that_there_is_no_such_product(door: Door) -> None:
    finding = await door.ask_slowly(A)
    door.catalogue.apply(product(A))
    door.store.gate.set()
    assert (await finding).price == Decimal("9.99")
    assert await door.price(A) == Decimal("9.99")


async def test_a_lookup_beats_the_older_event_that_came_meanwhile(door: Door) -> None:
    door.store.products[A] = product(A, version=3, price="3")
    finding = await door.ask_slowly(A)
    door.catalogue.apply(product(A, version=2, price="2"))
    door.store.gate.set()
    assert (await finding).price == Decimal(3)


async def test_an_event_that_came_meanwhile_sells_although_the_lookup_failed(door: Door) -> None:
    door.store.is_away = True
    finding = await door.ask_slowly(A)
    door.catalogue.apply(product(A, version=2, price="2"))
    door.store.gate.set()
    assert (await finding).price == Decimal(2)


async def test_p7_the_age_of_a_price_counts_from_when_it_was_read_from_postgresql() -> None:
    """And not from when the door took it from a cache that had it for a while."""
    door = Door()
    door.store.products[A], door.store.age_s = product(A), TTL_S - 1
    assert await door.price(A) == Decimal("9.99")
    door.now += 0.9
    assert door.catalogue.get(A) is not None
    door.now += 0.2
    assert door.catalogue.get(A) is None
