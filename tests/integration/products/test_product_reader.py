"""Read-through under races: readers that are overtaken, and stampedes (P7)."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest

from pipeline.cache.product_cache import ProductCache
from pipeline.cache.redis_link import connect
from pipeline.contract.adjustments import Adjustment
from product_api.products import Products, StoredProduct
from product_api.reader import ProductReader
from product_api.requests import ProductValues
from tests.support.time.conditions import eventually


class WatchedProducts(Products):
    """The real table. It counts reads, and can hold a read between its SELECT and its return."""

    reads = selected = at_once = most_at_once = 0
    holding: asyncio.Event | None = None

    async def get(self, product_id: str, client: str) -> StoredProduct | None:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        holding = self.holding
        stored = await super().get(product_id, client)
        self.selected += 1
        if holding is not None:
            await holding.wait()
        self.at_once -= 1
        return stored

    def hold(self) -> asyncio.Event:
        """Hold the reads that begin from now on until the event is set."""
        self.holding = asyncio.Event()
        return self.holding


@pytest.fixture
async def products(database_url: str) -> AsyncIterator[WatchedProducts]:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=5) as pool:
        yield WatchedProducts(pool, pool, timeout_s=5)


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[ProductCache]:
    async with connect(redis_url) as redis:
        yield ProductCache(redis)


async def _create(products: Products) -> StoredProduct:
    return (await products.create(ProductValues("Laptop", Decimal(1500), 50))).after


async def _change(products: Products, cache: ProductCache, product_id: str, qty: int) -> int:
    """Change the product as a writer does: commit, then bust. Returns the new version."""
    change = await products.change(product_id, Adjustment.CORRECTION, lambda old: old.values._replace(qty=qty))
    assert change is not None
    await cache.bust_or_defer([(product_id, change.after.version)])
    return change.after.version


async def test_a_reader_that_is_overtaken_by_a_writer_does_not_put_the_old_value_back(
    products: WatchedProducts, cache: ProductCache
) -> None:
    product_id = (await _create(products)).product.id
    reader = ProductReader(cache, products)
    held = products.hold()
    overtaken = asyncio.create_task(reader.read(product_id, "reader"))
    await eventually(lambda: products.selected == 1)
    products.holding = None
    version = await _change(products, cache, product_id, qty=48)
    held.set()
    old = await overtaken
    assert old is not None
    assert old.version < version
    assert await cache.read(product_id) is None
    found = await reader.read(product_id, "reader")
    assert found is not None
    assert found.version == version


async def test_who_comes_after_a_bust_does_not_share_a_lookup_that_began_before_it(
    products: WatchedProducts, cache: ProductCache
) -> None:
    product_id = (await _create(products)).product.id
    reader = ProductReader(cache, products)
    held = products.hold()
    before = asyncio.create_task(reader.read(product_id, "reader"))
    await eventually(lambda: products.selected == 1)
    products.holding = None
    version = await _change(products, cache, product_id, qty=48)
    after = asyncio.create_task(reader.read(product_id, "reader"))
    held.set()
    await before
    found = await after
    assert found is not None
    assert found.version == version


async def test_a_stampede_is_one_select_in_flight_and_one_for_all_who_came_since(
    products: WatchedProducts, cache: ProductCache
) -> None:
    product_id = (await _create(products)).product.id
    reader = ProductReader(cache, products)
    answers = await asyncio.gather(*(reader.read(product_id, "reader") for _ in range(500)))
    assert len({answer and answer.body for answer in answers}) == 1
    assert products.reads <= 2
    assert products.most_at_once == 1


async def test_a_stampede_without_redis_is_one_select_at_a_time_shared_by_all_who_wait_for_it(
    products: WatchedProducts, cache: ProductCache
) -> None:
    product_id = (await _create(products)).product.id
    async with connect("redis://127.0.0.1:1/0") as nowhere:
        reader = ProductReader(ProductCache(nowhere), products)
        answers = await asyncio.gather(*(reader.read(product_id, "reader") for _ in range(500)))
    assert all(answers)
    assert products.most_at_once == 1
    assert products.reads < 100


async def test_an_unknown_product_is_not_cached(products: WatchedProducts, cache: ProductCache) -> None:
    reader = ProductReader(cache, products)
    unknown = "01a20267-97ad-7199-a6a6-540000cf26ec"
    assert [await reader.read(unknown, "reader"), await reader.read(unknown, "reader")] == [None, None]
    assert products.reads == 2


async def test_a_lookup_whose_readers_have_gone_leaves_nothing_behind(
    products: WatchedProducts, cache: ProductCache
) -> None:
    product_id = (await _create(products)).product.id
    reader = ProductReader(cache, products)
    held = products.hold()
    reading = asyncio.create_task(reader.read(product_id, "reader"))
    await eventually(lambda: products.selected == 1)
    reading.cancel()
    held.set()
    await eventually(lambda: reader._flights.is_idle)
    assert await eventually(lambda: cache.read(product_id))
