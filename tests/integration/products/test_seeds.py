"""The demo products: the documents name them, their stock adds up, and they are created only in an empty database."""

import asyncpg
import pytest

from pipeline.contract.fields import EXAMPLE_PRODUCT
from stack.errors import HeadraceError
from stack.services.seeds import PRODUCTS, plant
from tests.support.services.ingest import execute

_BOOKS = """
    SELECT p.id::text, p.name, p.price, p.qty FROM products p JOIN stock_adjustments a ON a.product_id = p.id
    WHERE a.delta = p.qty AND a.reason = 'creation' AND p.deleted_at IS NULL ORDER BY p.id
"""


async def stored(database_url: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(database_url)
    try:
        return [tuple(row) for row in await connection.fetch(_BOOKS)]
    finally:
        await connection.close()


async def test_the_product_of_the_examples_is_there_with_its_stock_in_the_books(database_url: str) -> None:
    assert await plant(database_url) == "2 demo products"
    assert await stored(database_url) == [tuple(it) for it in PRODUCTS]
    assert PRODUCTS[0].id == EXAMPLE_PRODUCT


async def test_they_come_once_and_what_was_deleted_stays_deleted(database_url: str) -> None:
    await plant(database_url)
    await execute(database_url, "UPDATE products SET deleted_at = now()")
    assert await plant(database_url) == "demo products: skipped, there are products already"
    assert await stored(database_url) == []


async def test_a_database_that_is_away_is_named(database_url: str) -> None:
    with pytest.raises(HeadraceError) as raised:
        await plant("postgresql://nobody:wrong@127.0.0.1:1/none")
    assert "PostgreSQL" in raised.value.cause
