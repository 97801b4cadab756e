"""P8 for product_api: lists, single products, changes and readiness do not wait for each other's connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
import pytest

from pipeline.cache.product_cache import ProductCache
from pipeline.cache.redis_link import connect
from pipeline.contract.adjustments import Adjustment
from pipeline.process.shares import Busy
from product_api.products import Products, new_product_id
from product_api.reader import ProductReader
from product_api.requests import ProductValues
from tests.support.services.workers import locked
from tests.support.time.conditions import eventually
from web.requests.paging import Cursor, Page

ALL = Page(Cursor(datetime(9999, 1, 1, tzinfo=UTC), "ffffffff-ffff-ffff-ffff-ffffffffffff"), 500)


@pytest.fixture
async def products(database_url: str) -> AsyncIterator[Products]:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=4) as pool:
        yield Products(pool, pool, timeout_s=10)


async def test_p8_lists_past_their_bound_are_busy_and_all_else_is_answered(products: Products) -> None:
    """A full pool does not make the service unready: readiness has its own connection."""
    created = (await products.create(ProductValues("Laptop", Decimal(1500), 50))).after
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(products._lists.turn("reader"))
        stack.enter_context(products._lists._shares.places("others", 199))
        with pytest.raises(Busy):
            await products.page(ALL, "reader")
        assert await products.get(created.product.id, "reader") == created
        await products.ping()
    assert await products.page(ALL, "reader") == [created]


async def test_p8_one_client_that_reads_many_products_leaves_places_and_turns_to_the_others(
    products: Products, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even for a product for which the greedy client was just refused."""

    async def nothing(_: str) -> None:
        """Redis may answer two readers in any order. Here the greedy one must look the product up first."""

    created = (await products.create(ProductValues("Laptop", Decimal(1500), 50))).after.product.id
    async with connect(redis_url) as redis, locked(database_url, "products"):
        reader = ProductReader(ProductCache(redis), products)
        greedy = [asyncio.create_task(reader.read(new_product_id(), "greedy")) for _ in range(200)]
        await eventually(lambda: sum(it.done() for it in greedy) == 100)
        assert all(isinstance(it.exception(), Busy) for it in greedy if it.done())
        monkeypatch.setattr(reader._cache, "read", nothing)
        refused, other = (asyncio.create_task(reader.read(created, client)) for client in ("greedy", "other"))
        with pytest.raises(Busy):
            await refused
        await eventually(lambda: "other" in products._gets._waiting)
    found = await other
    assert found is not None
    assert await asyncio.gather(*greedy, return_exceptions=True)


async def test_p8_changes_that_wait_for_a_lock_are_bounded_and_reads_go_on(
    products: Products, database_url: str
) -> None:
    created = (await products.create(ProductValues("Laptop", Decimal(1500), 50))).after
    changes = []
    async with locked(database_url, "stock_adjustments"):
        for _ in range(200):
            change = products.change(
                created.product.id, Adjustment.RESTOCK, lambda old: old.values._replace(qty=old.values.qty + 1)
            )
            changes.append(asyncio.create_task(change))
        await eventually(lambda: products._changes._shares.is_full)
        with pytest.raises(Busy):
            await products.create(ProductValues("Laptop", Decimal(1500), 50))
    await asyncio.gather(*changes)
    after = await products.get(created.product.id, "reader")
    assert after is not None
    assert after.product.qty == 250
