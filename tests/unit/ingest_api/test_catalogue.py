"""What the catalogue knows of products: one lookup for each id, freshness, events, and bounds."""

import asyncio
from decimal import Decimal

import pytest

from database.sessions import StoreUnavailable
from pipeline.process.shares import Busy
from tests.support.scenes.catalogue import MAX_STALE_S, TTL_S, UNKNOWN_TTL_S, A, B, C, CatalogueSetup, product, some_ids
from tests.support.time.conditions import eventually


@pytest.fixture
async def setup() -> CatalogueSetup:
    return CatalogueSetup()


# ── lookups


async def test_a_product_is_looked_up_once_and_then_known_without_io(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A)
    assert setup.catalogue.get(A) is None
    found = await setup.catalogue.find(A, "")
    assert (found.price, found.sold_out, found.version) == (Decimal("9.99"), False, 1)
    assert setup.catalogue.get(A) is found
    assert await setup.catalogue.find(A, "") is found
    assert setup.store.asked == [A]


async def test_a_thousand_who_ask_at_once_share_one_lookup(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A)
    first = await setup.ask_slowly(A)
    others = [asyncio.create_task(setup.catalogue.find(A, "")) for _ in range(1000)]
    await asyncio.sleep(0)
    setup.store.gate.set()
    found = await asyncio.gather(first, *others)
    assert {it.price for it in found} == {Decimal("9.99")}
    assert setup.store.asked == [A]


async def test_different_products_are_looked_up_at_the_same_time(setup: CatalogueSetup) -> None:
    setup.store.products = {A: product(A), B: product(B, price="1")}
    first, second = await setup.ask_slowly(A), await setup.ask_slowly(B)
    setup.store.gate.set()
    assert [it.price for it in await asyncio.gather(first, second)] == [Decimal("9.99"), Decimal(1)]


async def test_one_who_gives_up_does_not_cancel_the_lookup_of_the_others(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A)
    first = await setup.ask_slowly(A)
    second = asyncio.create_task(setup.catalogue.find(A, ""))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    setup.store.gate.set()
    assert (await second).price == Decimal("9.99")
    assert setup.store.asked == [A]


async def test_a_failed_lookup_fails_all_who_wait_for_it_and_nobody_after(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A)
    setup.store.is_away = True
    first = await setup.ask_slowly(A)
    second = asyncio.create_task(setup.catalogue.find(A, ""))
    await asyncio.sleep(0)
    setup.store.gate.set()
    errors = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(error) for error in errors] == [StoreUnavailable, StoreUnavailable]
    setup.store.is_away = False
    assert await setup.price(A) == Decimal("9.99")


# ── freshness


async def test_after_the_ttl_it_is_asked_again(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A)
    await setup.price(A)
    setup.store.products[A] = product(A, version=2, price="12.50")
    setup.now += TTL_S - 0.001
    assert await setup.price(A) == Decimal("9.99")
    setup.now += 0.001
    assert await setup.price(A) == Decimal("12.50")


async def test_a_store_that_was_restored_from_a_backup_is_believed_after_the_ttl(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A, version=7, price="7")
    await setup.price(A)
    setup.store.products[A] = product(A, version=6, price="6")
    setup.now += TTL_S
    assert await setup.price(A) == Decimal(6)
    assert setup.catalogue.get(A) is not None
    assert setup.store.known_versions == [0, 7]  # so that a cache which is behind is not taken for that


async def test_a_product_that_the_store_has_no_more_does_not_sell_when_it_is_away(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A)
    await setup.price(A)
    setup.store.products.clear()
    setup.now += TTL_S
    assert await setup.price(A) is None
    setup.store.is_away = True
    setup.now += UNKNOWN_TTL_S
    with pytest.raises(StoreUnavailable):
        await setup.price(A)


async def test_distrust_asks_again_for_everything(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A)
    await setup.price(A)
    await setup.price(B)
    setup.catalogue.distrust()
    setup.store.products = {A: product(A, version=2, price="2"), B: product(B)}
    assert await setup.price(A) == Decimal(2)
    assert await setup.price(B) == Decimal("9.99")


# ── while nobody can be asked


async def test_an_old_price_sells_while_the_store_is_away_up_to_the_bound(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A)
    await setup.price(A)
    setup.store.is_away = True
    setup.now += TTL_S + MAX_STALE_S - 1
    assert await setup.price(A) == Decimal("9.99")
    setup.now += 1
    with pytest.raises(StoreUnavailable):
        await setup.price(A)


async def test_an_old_price_is_used_for_a_while_before_the_store_is_tried_again(setup: CatalogueSetup) -> None:
    """A lookup in a database that hangs takes its whole deadline. Not every order may wait for that."""
    setup.store.products[A] = product(A)
    await setup.price(A)
    setup.store.is_away = True
    setup.now += TTL_S
    for _ in range(100):
        await setup.price(A)
    assert setup.store.asked == [A, A]
    setup.store.is_away = False
    setup.store.products[A] = product(A, version=2, price="2")
    setup.now += 1
    assert await setup.price(A) == Decimal(2)


async def test_an_old_price_sells_at_once_while_the_store_does_not_answer(setup: CatalogueSetup) -> None:
    """One question goes on. The first order waits for a moment, later ones not at all."""
    setup.store.products[A] = product(A)
    await setup.price(A)
    setup.now += TTL_S
    setup.store.products[A] = product(A, version=2, price="2")
    setup.store.gate.clear()
    async with asyncio.timeout(5):  # the store never answers
        assert await setup.price(A) == Decimal("9.99")
    for _ in range(100):
        selling = asyncio.create_task(setup.price(A))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert selling.done()
    assert setup.store.asked == [A, A]
    setup.store.gate.set()
    await eventually(lambda: setup.catalogue.get(A))
    assert await setup.price(A) == Decimal(2)


async def test_an_old_price_does_not_sell_while_the_store_answers_in_time(setup: CatalogueSetup) -> None:
    """P7: an old price is used only while no store can be asked."""
    setup.store.products[A] = product(A)
    await setup.price(A)
    setup.now += TTL_S
    setup.store.products[A] = product(A, version=2, price="2")
    selling = await setup.ask_slowly(A)
    setup.store.gate.set()
    assert (await selling).price == Decimal(2)


async def test_what_was_never_known_is_waited_for_beside_what_is_old(setup: CatalogueSetup) -> None:
    setup.store.products = {A: product(A), B: product(B)}
    await setup.price(A)
    setup.now += TTL_S
    setup.store.gate.clear()
    finding = asyncio.create_task(setup.catalogue.find_all([A, B], ""))
    await eventually(lambda: setup.store.asked == [A, A, B])
    setup.store.gate.set()
    assert set(await finding) == {A, B}


async def test_of_many_those_that_nobody_can_be_asked_about_are_left_out(setup: CatalogueSetup) -> None:
    setup.store.products = {A: product(A), B: product(B)}
    await setup.price(A)
    setup.store.is_away = True
    setup.now += TTL_S
    assert {id_: it.price for id_, it in (await setup.catalogue.find_all([A, B], "")).items()} == {A: Decimal("9.99")}


async def test_distrust_does_not_stop_a_known_product_from_selling_while_the_store_is_away(
    setup: CatalogueSetup,
) -> None:
    setup.store.products[A] = product(A)
    await setup.price(A)
    setup.store.is_away = True
    setup.catalogue.distrust()
    assert await setup.price(A) == Decimal("9.99")


async def test_what_was_never_known_cannot_be_sold_while_the_store_is_away(setup: CatalogueSetup) -> None:
    setup.store.is_away = True
    with pytest.raises(StoreUnavailable):
        await setup.price(A)


# ── ids that are not products


async def test_an_unknown_id_is_asked_for_once_in_a_while(setup: CatalogueSetup) -> None:
    assert await setup.price(A) is None
    assert await setup.price(A) is None
    assert setup.store.asked == [A]
    setup.now += UNKNOWN_TTL_S
    setup.store.products[A] = product(A)
    assert await setup.price(A) == Decimal("9.99")


async def test_a_flood_of_unknown_ids_stays_bounded_and_pushes_no_product_out() -> None:
    setup = CatalogueSetup(catalogue_max_unknown=10, catalogue_max_products=2)
    setup.store.products = {A: product(A), B: product(B)}
    await setup.price(A)
    await setup.price(B)
    for number in range(100):
        await setup.price(f"00000000-0000-4000-8000-{number:012}")
    assert len(setup.catalogue._unknown) == 10
    assert setup.catalogue.get(A) is not None
    assert setup.catalogue.get(B) is not None


async def test_look_ups_are_bounded_and_those_past_the_bound_are_refused_and_cost_nothing() -> None:
    setup = CatalogueSetup(max_lookups=4)
    setup.store.products[A] = product(A)
    await setup.price(A)
    setup.store.gate.clear()
    first = asyncio.create_task(setup.catalogue.find_all(some_ids(4), ""))
    await eventually(lambda: len(setup.store.asked) == 5)
    for _ in range(100):
        with pytest.raises(Busy):
            await setup.catalogue.find_all(some_ids(2), "")
    assert len(setup.store.asked) == 5
    setup.now += TTL_S
    assert await setup.price(A) == Decimal("9.99")  # there is no place to ask, and an old price
    setup.store.gate.set()
    assert all(it.price is None for it in (await first).values())
    assert await setup.price(A) == Decimal("9.99")
    assert len(await setup.catalogue.find_all(some_ids(4), "")) == 4


async def test_products_are_bounded_too_and_the_one_held_longest_goes() -> None:
    setup = CatalogueSetup(catalogue_max_products=2)
    setup.store.products = {A: product(A), B: product(B), C: product(C)}
    for product_id in (A, B, C):
        await setup.price(product_id)
    assert [setup.catalogue.get(it) is not None for it in (A, B, C)] == [False, True, True]


async def test_a_deleted_product_has_no_price(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A, deleted=True)
    assert await setup.price(A) is None


# ── the age of a price


async def test_p7_the_age_of_a_price_counts_from_when_it_was_read_from_postgresql() -> None:
    """Its age counts from when it was read from PostgreSQL, not from when the catalogue took it from the cache."""
    setup = CatalogueSetup()
    setup.store.products[A], setup.store.age_s = product(A), TTL_S - 1
    assert await setup.price(A) == Decimal("9.99")
    setup.now += 0.9
    assert setup.catalogue.get(A) is not None
    setup.now += 0.2
    assert setup.catalogue.get(A) is None
