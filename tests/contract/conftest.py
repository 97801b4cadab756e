"""All four services with API keys, for all tests of a module."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from pipeline.contract.api_keys import ORDERS_READ, ORDERS_WRITE, PRODUCTS_WRITE, new_token
from pipeline.contract.fields import EXAMPLE_PRODUCT
from product_api.requests import MAX_QTY
from tests.conftest import Servers, emptied_redis, environment_of, own_database, own_vhost
from tests.contract.provocations import FULL_PRODUCT
from tests.contract.schemathesis_run import Target
from tests.support.data.api_keys import key_of, write_keys
from tests.support.services.deployment import Deployment, deployed
from tests.support.services.ingest import execute, insert_product

TOKENS = {client: new_token() for client in ("alice", "bob", "carol", "alice again")}
_SCOPES = (ORDERS_WRITE, ORDERS_READ, PRODUCTS_WRITE)
# A limit that is never reached, so that the answers have its fields.
_LIMIT = 1_000_000
_KEYS = (
    key_of(TOKENS["alice"], "alice", _SCOPES, _LIMIT),
    key_of(TOKENS["bob"], "bob", _SCOPES),
    key_of(TOKENS["carol"], "carol", ["ops"]),
    key_of(TOKENS["alice again"], "alice", _SCOPES, _LIMIT),
)
_ENOUGH = 10**14


@pytest.fixture(scope="module")
def guarded_environment(
    servers: Servers, template_database: str, order_id_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    keys = tmp_path_factory.mktemp("keys") / "api-keys.json"
    write_keys(keys, *_KEYS)
    with own_database(servers, template_database) as database_url, own_vhost(servers) as amqp_url:
        environment = environment_of(database_url, amqp_url, emptied_redis(servers), order_id_key)
        yield {**environment, "API_KEYS_FILE": str(keys)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(guarded_environment: dict[str, str]) -> AsyncIterator[Deployment]:
    async with deployed(guarded_environment) as deployment:
        yield deployment


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders(guarded: Deployment, guarded_environment: dict[str, str]) -> Target:
    """ingest_api."""
    return await _target(guarded.url("ingest_api"), guarded_environment["DATABASE_URL"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def products(guarded: Deployment, guarded_environment: dict[str, str]) -> Target:
    """product_api."""
    return await _target(guarded.url("product_api"), guarded_environment["DATABASE_URL"])


async def _target(url: str, database_url: str) -> Target:
    """The API with two new products, one of full stock, and the product of the documents' examples."""
    known = (
        "INSERT INTO products (id, name, price, qty) VALUES ($1, 'Laptop Demo', 1500, $2) ON CONFLICT (id) DO NOTHING"
    )
    await execute(database_url, known, EXAMPLE_PRODUCT, _ENOUGH)
    await execute(database_url, known, FULL_PRODUCT, MAX_QTY)
    products = [EXAMPLE_PRODUCT, *[await insert_product(database_url, qty=_ENOUGH) for _ in range(2)]]
    tokens = {client: TOKENS[client] for client in ("alice", "bob", "carol")}
    return Target(url, tokens, ("alice", "bob"), products)
