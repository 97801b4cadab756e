"""P12 and a PostgreSQL that cannot write: every client says so within 5 s, and uses one that can once there is one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import httpx
import pytest

from database.connection import Connection, Database
from database.faults import cause_of
from database.sessions import Pool, StoreUnavailable, borrow, make_pool, reading
from pipeline.process.health import Health
from tests.conftest import Servers
from tests.support.data.metrics import grown, sample
from tests.support.faults.faults import proxy_to
from tests.support.faults.standby import standby_of
from tests.support.services.deployment import Deployment, deployed
from tests.support.time.conditions import eventually

SOON_S = 5.0
MADE_READ_ONLY = "SET default_transaction_read_only = on"
"""What a failover behind a pooler or a proxy looks like to a session that lives on."""

_READ_ONLY = sample("headrace_server_faults_total", server="postgresql", cause="read_only")


@asynccontextmanager
async def pool_of(database_url: str, size: int = 3) -> AsyncIterator[Pool]:
    async with make_pool(database_url, "test", size=size, timeout_s=5) as pool:
        yield pool


async def _touch(connection: "Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]") -> None:
    await connection.execute("CREATE TABLE IF NOT EXISTS touched ()")


async def test_p12_a_pool_drops_the_connections_to_a_server_that_has_become_read_only(database_url: str) -> None:
    """All of them: each would cost one more request its answer, for the 300 s that a pool keeps an idle connection."""
    async with pool_of(database_url) as pool, grown(_READ_ONLY) as growth:
        async with borrow(pool, 5) as one, borrow(pool, 5) as two, borrow(pool, 5) as three:
            for connection in (one, two, three):
                await connection.execute(MADE_READ_ONLY)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with borrow(pool, 5) as connection:
                await _touch(connection)
        for _ in range(3):
            async with borrow(pool, 5) as connection:
                await _touch(connection)
        assert growth() == [1]


async def test_p12_a_reader_hears_why_in_words(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        async with borrow(pool, 5) as connection:
            await connection.execute(MADE_READ_ONLY)
        with pytest.raises(StoreUnavailable, match="standby"):
            async with reading(pool, 5) as connection:
                await _touch(connection)


@pytest.mark.parametrize("statement", ["SELECT 1 / 0", "SELECT $1::uuid"])
async def test_a_pool_keeps_a_connection_whose_server_is_well(database_url: str, statement: str) -> None:
    async with pool_of(database_url, size=1) as pool:
        async with borrow(pool, 5) as connection:
            pid = connection.get_server_pid()
        with pytest.raises(asyncpg.DataError):
            async with borrow(pool, 5) as connection:
                await connection.fetch(statement, *(["no uuid"] if "$1" in statement else []))
        async with borrow(pool, 5) as connection:
            assert connection.get_server_pid() == pid


async def _nothing(_: Connection) -> None:
    """Prepare nothing."""


async def test_p12_a_worker_between_batches_notices_that_its_server_has_become_read_only(database_url: str) -> None:
    health = Health("test", "database")
    database = Database(database_url, health, _nothing)
    assert await database.ping()
    assert database._connection is not None
    await database._connection.execute(MADE_READ_ONLY)
    assert not await database.ping()
    assert "standby" in str(health.summary())
    assert await database.ping()
    assert health.is_ready
    await database.close()


# ── a standby, and a failover to it


@pytest.mark.deep
@pytest.mark.alone  # it copies the whole server
@pytest.mark.timeout(300)
async def test_p12_a_failover_is_named_by_every_client_and_over_as_soon_as_a_server_can_write(
    servers: Servers, environment: dict[str, str], database_url: str
) -> None:
    async with standby_of(servers.database_url) as standby, proxy_to(database_url) as proxy:
        far = {**environment, "DATABASE_URL": proxy.url(database_url)}
        async with deployed(far) as deployment:
            product = await deployment.create_product(qty=1_000)
            for path in ("/products", f"/products/{product}"):  # so that the pools have connections
                await _get(deployment, "product_api", path)
            first = (await deployment.order(product)).json()["id"]
            await eventually(lambda: deployment.verdict(first))
            await standby.catch_up()
            proxy.lead_to(standby.url(database_url))
            await _all_say_that_it_cannot_write(deployment)
            waiting = [(await deployment.order(product)).json()["id"] for _ in range(20)]
            async with deployment.client("product_api") as client:
                answer = await client.post(f"/products/{product}/restock", json={"quantity": 1})
                assert answer.status_code == 503
            await standby.promote()
            for name in deployment.services:
                await eventually(partial(deployment.is_ready, name), SOON_S)
            async with deployment.client("product_api") as client:
                answer = await client.post(f"/products/{product}/restock", json={"quantity": 1})
                assert answer.status_code == 200, answer.text
            await eventually(partial(_listens_for_verdicts, deployment), SOON_S)
            for order_id in waiting:
                order = await eventually(partial(deployment.verdict, order_id))
                assert order["status"] == "PROCESSED"
            assert (await deployment.product(product))["qty"] == 1_000 - 21 + 1


async def _all_say_that_it_cannot_write(deployment: Deployment) -> None:
    for name in ("persist_worker", "product_consumer", "product_api"):
        await eventually(partial(_is_not_ready, deployment, name), SOON_S)
    for name in deployment.services:
        await eventually(partial(_says, deployment, name, "standby"), SOON_S)
        counted = 'headrace_server_faults_total{cause="read_only",server="postgresql"}'
        assert await deployment.services[name].metric(counted) > 0
        assert "standby" in deployment.services[name].log()


async def _listens_for_verdicts(deployment: Deployment) -> bool:
    """It listens on a connection of its own, which may be back later than those that make ingest_api ready."""
    return bool((await _get(deployment, "ingest_api", "/health")).json()["parts"]["verdicts"] == "ok")


async def _is_not_ready(deployment: Deployment, name: str) -> bool:
    return not await deployment.is_ready(name)


async def _says(deployment: Deployment, name: str, words: str) -> bool:
    return words in (await _get(deployment, name, "/health")).text


async def _get(deployment: Deployment, name: str, path: str) -> httpx.Response:
    async with deployment.client(name) as client:
        return await client.get(path)


@pytest.mark.deep
@pytest.mark.alone  # it copies the whole server
async def test_p12_of_several_hosts_the_one_that_can_write_is_taken(servers: Servers, database_url: str) -> None:
    async with standby_of(servers.database_url) as standby:
        await standby.catch_up()
        both = _with_hosts(database_url, f"127.0.0.1:{standby.port}")
        async with pool_of(both) as pool, borrow(pool, 5) as connection:
            await _touch(connection)
        async with pool_of(standby.url(database_url)) as pool:
            with pytest.raises(asyncpg.TargetServerAttributeNotMatched) as refused:
                async with borrow(pool, 5) as connection:
                    await _touch(connection)
            assert cause_of(refused.value).name == "read_only"


def _with_hosts(url: str, first: str) -> str:
    login, _, rest = url.rpartition("@")
    host, _, name = rest.partition("/")
    return f"{login}@{first},{host}/{name}"
