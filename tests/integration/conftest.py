"""What several of these tests begin with."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.ingest import Ingest, ingesting, insert_product
from tests.products import Audit


@pytest.fixture
async def ingest(environment: dict[str, str]) -> AsyncIterator[Ingest]:
    """A process of ingest_api, ready."""
    async with ingesting(environment) as it:
        yield it


@pytest.fixture
async def laptop(database_url: str) -> str:
    """The id of a product of which there are 50, at 1500.00."""
    return await insert_product(database_url, "1500.00", 50)


@pytest.fixture
async def audit(database_url: str) -> AsyncIterator[Audit]:
    connection = await asyncpg.connect(database_url)
    yield Audit(connection)
    await connection.close()
