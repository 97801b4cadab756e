"""The contenders' SQL, run as a redelivery would run it: an honest peer stores and takes once."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import asyncpg
import pytest

from benchmarks.contenders.statements import DECIDE, INSERT_ORDER, STORE_AND_DECIDE
from database.connection import Connection
from tests.support.services.ingest import insert_product
from tests.support.services.workers import connected

_VERDICTS = "SELECT outcome, reason FROM stock_ledger"
_QTY = "SELECT qty FROM products"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as connection:
        yield connection


@pytest.fixture
async def product_id(database_url: str) -> str:
    """Of a product of which there are 5, at 2.00."""
    return await insert_product(database_url, "2.00", 5)


def row_of(product_id: str, quantity: int) -> tuple[object, ...]:
    return uuid4(), product_id, quantity, Decimal(2), Decimal(2 * quantity), datetime.now(UTC)


async def test_an_order_that_comes_twice_is_stored_and_takes_stock_once(database: Connection, product_id: str) -> None:
    row = row_of(product_id, 3)
    for _ in range(2):
        await database.execute(STORE_AND_DECIDE, *row)

    assert await database.fetchval("SELECT count(*) FROM orders") == 1
    assert [tuple(it) for it in await database.fetch(_VERDICTS)] == [("PROCESSED", None)]
    assert await database.fetchval(_QTY) == 2


async def test_an_order_for_more_than_there_is_fails_and_takes_nothing(database: Connection, product_id: str) -> None:
    await database.execute(STORE_AND_DECIDE, *row_of(product_id, 6))

    assert [tuple(it) for it in await database.fetch(_VERDICTS)] == [("FAILED", "out_of_stock")]
    assert await database.fetchval(_QTY) == 5


async def test_a_stored_order_is_decided_once(database: Connection, product_id: str) -> None:
    row = row_of(product_id, 3)
    await database.execute(INSERT_ORDER, *row)
    await database.execute(DECIDE, *row[:3])
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute(DECIDE, *row[:3])

    assert [tuple(it) for it in await database.fetch(_VERDICTS)] == [("PROCESSED", None)]
    assert await database.fetchval(_QTY) == 2
