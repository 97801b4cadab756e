"""One deployment for all tests of a module. Each test has its own products."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.conftest import Servers, emptied_redis, environment_of, own_database, own_vhost
from tests.support.services.deployment import Deployment, deployed


@pytest.fixture(scope="module")
def shared_environment(servers: Servers, template_database: str, order_id_key: str) -> Iterator[dict[str, str]]:
    """Like `environment`, for a whole module."""
    with own_database(servers, template_database) as database_url, own_vhost(servers) as amqp_url:
        yield environment_of(database_url, amqp_url, emptied_redis(servers), order_id_key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_deployment(shared_environment: dict[str, str]) -> AsyncIterator[Deployment]:
    async with deployed(shared_environment) as deployment:
        yield deployment


@pytest_asyncio.fixture(loop_scope="module")
async def deployment(shared_deployment: Deployment) -> Deployment:
    """All four services, ready. The module runs in one event loop: `pytest.mark.asyncio(loop_scope="module")`."""
    await shared_deployment.start_missing()
    return shared_deployment
