"""What several of these tests begin with."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.support.data.products import Audit
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.ingest import Ingest, ingesting, insert_product
from tests.support.services.workers import redis_client


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


@pytest.fixture
async def broker(environment: dict[str, str]) -> AsyncIterator[Proxy]:
    """Between RabbitMQ and what is started after this."""
    async with proxy_to(environment["AMQP_URL"]) as proxy:
        environment["AMQP_URL"] = proxy.url(environment["AMQP_URL"])
        yield proxy


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with redis_client(redis_url) as client:
        yield client
