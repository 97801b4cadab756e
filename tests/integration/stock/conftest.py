"""Stock on a database whose books are checked after each test (P3)."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from database import connection as database_connection
from database.connection import Connection
from pipeline.cache.product_cache import ProductCache
from tests.support.data.redis_names import NAMESPACE
from tests.support.services.workers import assert_conserved, connected


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 0.01)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it
        await assert_conserved(it)


@pytest.fixture
def cache(redis: Redis) -> ProductCache:
    return ProductCache(redis, NAMESPACE)
