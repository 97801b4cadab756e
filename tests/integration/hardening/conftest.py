"""One ingest_api for all hardening tests."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.conftest import Servers, emptied_redis, environment_of, own_database, own_vhost
from tests.support.services.ingest import Ingest, ingesting, insert_product


@pytest.fixture(scope="package")
def shared_environment(servers: Servers, template_database: str, order_id_key: str) -> Iterator[dict[str, str]]:
    with own_database(servers, template_database) as database_url, own_vhost(servers) as amqp_url:
        environment = environment_of(database_url, amqp_url, emptied_redis(servers), order_id_key)
        # Any Host is answered, because these tests send good and bad ones.
        yield {**environment, "ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE": "true"}


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def product(shared_environment: dict[str, str]) -> str:
    return await insert_product(shared_environment["DATABASE_URL"], qty=10**9)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def ingest(shared_environment: dict[str, str], product: str) -> AsyncIterator[Ingest]:
    """A process of ingest_api with the settings that it ships with. Whatever is done to it here, it finds nothing to
    report.
    """
    async with ingesting(shared_environment) as it:
        assert (await it.order(product)).status_code == 202
        yield it
        assert (await it.order(product)).status_code == 202
        assert it.service.log().count('"level":"error"') == 0, it.service.log()[-2000:]
