"""Product events in the catalogue: the newer version counts, whichever way it came."""

from decimal import Decimal

import pytest

from pipeline.contract.product_events import ProductEvent
from tests.support.scenes.catalogue import TTL_S, A, B, CatalogueSetup, product


@pytest.fixture
async def setup() -> CatalogueSetup:
    return CatalogueSetup()


# ── events


@pytest.fixture
async def selling(setup: CatalogueSetup) -> CatalogueSetup:
    """The catalogue knows product A, at version 5."""
    setup.store.products[A] = product(A, version=5)
    await setup.price(A)
    return setup


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
    selling: CatalogueSetup, event: ProductEvent, price: Decimal | None, sold_out: bool
) -> None:
    selling.catalogue.apply(event)
    held = selling.catalogue.get(A)
    assert held is not None
    assert (held.price, held.sold_out) == (price, sold_out)
    assert selling.store.asked == [A]


async def test_a_restock_opens_the_door_again(selling: CatalogueSetup) -> None:
    selling.catalogue.apply(product(A, version=6, qty=0))
    selling.catalogue.apply(product(A, version=7, qty=10))
    held = selling.catalogue.get(A)
    assert held is not None
    assert not held.sold_out


async def test_a_sold_out_that_a_restock_has_overtaken_does_not_close_the_door(selling: CatalogueSetup) -> None:
    selling.catalogue.apply(product(A, version=7, qty=10))
    selling.catalogue.apply(product(A, version=6, qty=0))
    held = selling.catalogue.get(A)
    assert held is not None
    assert not held.sold_out


async def test_an_event_makes_fresh(selling: CatalogueSetup) -> None:
    selling.now += TTL_S - 1
    selling.catalogue.apply(product(A, version=6))
    selling.now += TTL_S - 1
    assert selling.catalogue.get(A) is not None


async def test_events_about_products_that_nobody_orders_are_not_held(setup: CatalogueSetup) -> None:
    setup.catalogue.apply(product(A))
    assert not setup.catalogue._products


async def test_the_event_of_a_creation_ends_the_negative_answer(setup: CatalogueSetup) -> None:
    assert await setup.price(A) is None
    setup.store.products[A] = product(A)
    setup.catalogue.apply(product(A))
    assert await setup.price(A) == Decimal("9.99")


# ── an event that overtakes a lookup


async def test_an_event_beats_the_older_answer_of_a_repeated_lookup(selling: CatalogueSetup) -> None:
    selling.now += TTL_S
    finding = await selling.ask_slowly(A)
    selling.catalogue.apply(product(A, version=6, qty=0))
    selling.store.gate.set()
    assert (await finding).sold_out
    held = selling.catalogue.get(A)
    assert held is not None
    assert held.version == 6


async def test_an_event_beats_the_older_answer_of_a_first_lookup(setup: CatalogueSetup) -> None:
    """Otherwise orders would be refused for a whole TTL after a restock."""
    setup.store.products[A] = product(A, version=1, qty=0)
    finding = await setup.ask_slowly(A)
    setup.catalogue.apply(product(A, version=2, qty=10))
    setup.store.gate.set()
    assert not (await finding).sold_out
    held = setup.catalogue.get(A)
    assert held is not None
    assert held.version == 2


async def test_a_creation_beats_the_answer_that_there_is_no_such_product(setup: CatalogueSetup) -> None:
    finding = await setup.ask_slowly(A)
    setup.catalogue.apply(product(A))
    setup.store.gate.set()
    assert (await finding).price == Decimal("9.99")
    assert await setup.price(A) == Decimal("9.99")


async def test_a_lookup_beats_the_older_event_that_came_meanwhile(setup: CatalogueSetup) -> None:
    setup.store.products[A] = product(A, version=3, price="3")
    finding = await setup.ask_slowly(A)
    setup.catalogue.apply(product(A, version=2, price="2"))
    setup.store.gate.set()
    assert (await finding).price == Decimal(3)


async def test_an_event_that_came_meanwhile_sells_although_the_lookup_failed(setup: CatalogueSetup) -> None:
    setup.store.is_away = True
    finding = await setup.ask_slowly(A)
    setup.catalogue.apply(product(A, version=2, price="2"))
    setup.store.gate.set()
    assert (await finding).price == Decimal(2)
