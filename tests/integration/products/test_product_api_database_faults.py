"""product_api while PostgreSQL is away, hangs, locks a row, or loses the answer of a commit."""

import asyncio
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import asyncpg
import httpx
import pytest

from database.sessions import PooledConnection, make_pool
from pipeline.broker.publisher import Publisher
from pipeline.cache.product_cache import ProductCache
from pipeline.cache.redis_link import connect
from pipeline.contract.adjustments import Adjustment
from product_api import products
from product_api.announcer import Announcer
from product_api.products import Change, ChangeUnanswered, Product, Products, StoredProduct
from product_api.requests import ProductValues
from tests.support.data.products import Audit
from tests.support.data.redis_names import NAMESPACE
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.scenes.products import LAPTOP, OVERWRITE, PROMPTLY_S, by_proxy, create, running_product_api
from tests.support.time.conditions import eventually

UNKNOWN_ID = "01a20267-97ad-7199-a6a6-540000cf26ec"


async def _status(api: httpx.AsyncClient, path: str) -> int:
    return (await api.get(path)).status_code


async def test_without_postgres_cached_products_are_read_and_all_else_is_503(environment: dict[str, str]) -> None:
    async with by_proxy(environment, "DATABASE_URL") as proxy, running_product_api(environment) as api:
        cached, uncached = await create(api), await create(api)
        await api.get(cached)
        proxy.go_away()
        assert (await api.get(cached)).json()["qty"] == 50
        for response in (
            await api.get(uncached),
            await api.get("/products"),
            await api.post("/products", json=LAPTOP),
            await api.patch(cached, json={"qty": 1}, headers=OVERWRITE),
            await api.delete(cached),
        ):
            assert response.status_code == 503
            assert response.json()["type"] == "/docs/problems/store-unavailable"
            assert int(response.headers["Retry-After"]) >= 1
        await eventually(lambda: _is_not_ready(api))
        proxy.come_back()
        await eventually(lambda: _is_ready(api))
        assert (await api.get(uncached)).status_code == 200
        assert (await api.patch(cached, json={"qty": 48}, headers=OVERWRITE)).status_code == 200
        assert (await api.get(cached)).json()["qty"] == 48


async def _is_ready(api: httpx.AsyncClient) -> bool:
    return await _status(api, "/readyz") == 200


async def _is_not_ready(api: httpx.AsyncClient) -> bool:
    return await _status(api, "/readyz") == 503


async def test_a_postgres_that_hangs_is_a_503_within_the_deadline_and_no_leak(environment: dict[str, str]) -> None:
    async with by_proxy(environment, "DATABASE_URL") as proxy, running_product_api(environment) as api:
        path = await create(api)
        proxy.hold()
        began = time.monotonic()
        answers = await asyncio.gather(
            *(api.patch(path, json={"qty": 1}, headers=OVERWRITE) for _ in range(15)),
            *(api.get(path) for _ in range(15)),
        )
        assert {answer.status_code for answer in answers} == {503}
        assert time.monotonic() - began < 2 * PROMPTLY_S
        assert (await api.get("/livez")).status_code == 200
        proxy.come_back()
        await eventually(lambda: _is_ready(api))
        assert (await api.patch(path, json={"qty": 48}, headers=OVERWRITE)).status_code == 200


async def test_a_commit_whose_answer_is_lost_is_said_to_be_unknown(database_url: str, audit: Audit) -> None:
    async with (
        proxy_to(database_url) as proxy,
        make_pool(proxy.url(database_url), "test", size=1, timeout_s=2) as pool,
    ):
        table = Products(pool, pool, timeout_s=2)
        created = await table.create(ProductValues("Laptop", Decimal(1500), 50))
        product = created.after.product

        async def restock_into_silence(connection: PooledConnection) -> Change:
            await connection.execute("UPDATE products SET qty = 51 WHERE id = $1", product.id)
            proxy.hold()
            return created

        with pytest.raises(ChangeUnanswered):
            await table._write(restock_into_silence)
        assert await audit.qty(product.id) == 51


@pytest.fixture
def silent_commits(monkeypatch: pytest.MonkeyPatch) -> list[Proxy]:
    """Once the proxy is in this list, it drops the answer to the COMMIT of a stock change."""
    silent: list[Proxy] = []
    adjust = products._adjust

    async def adjust_and_be_silent(
        connection: PooledConnection, product_id: str, delta: int, reason: Adjustment
    ) -> None:
        await adjust(connection, product_id, delta, reason)
        for proxy in silent:
            proxy.forget()

    monkeypatch.setattr(products, "_adjust", adjust_and_be_silent)
    return silent


async def test_after_an_unanswered_commit_the_get_that_is_advised_shows_what_became_of_it(
    environment: dict[str, str], silent_commits: list[Proxy]
) -> None:
    """Otherwise a client that sees the old stock in the cache restocks twice."""
    async with (
        by_proxy(environment, "DATABASE_URL") as proxy,
        running_product_api(environment, database_timeout_s=1.5) as api,
    ):
        path = await create(api)
        assert (await api.get(path)).json()["qty"] == 50  # and it is in the cache now
        silent_commits.append(proxy)
        answer = await api.post(f"{path}/restock", json={"quantity": 5})
        assert (answer.status_code, answer.json()["type"]) == (503, "/docs/problems/outcome-unknown")
        assert f"GET {path} " in answer.json()["detail"]
        assert (await api.get(path)).json()["qty"] == 55


async def test_after_an_unanswered_creation_the_client_is_told_where_the_product_would_be(
    environment: dict[str, str], silent_commits: list[Proxy]
) -> None:
    async with (
        by_proxy(environment, "DATABASE_URL") as proxy,
        running_product_api(environment, database_timeout_s=1.5) as api,
    ):
        silent_commits.append(proxy)
        answer = await api.post("/products", json=LAPTOP)
        assert (answer.status_code, answer.json()["type"]) == (503, "/docs/problems/outcome-unknown")
        advised = answer.json()["detail"].partition("GET ")[2].partition(" ")[0]
        assert (await api.get(advised)).json() | LAPTOP == (await api.get(advised)).json()


async def test_a_reader_before_a_late_commit_does_not_put_the_old_value_back(
    environment: dict[str, str], redis_url: str
) -> None:
    async with connect(redis_url) as redis:
        cache = ProductCache(redis, NAMESPACE)
        before, after = (
            StoredProduct(Product(UNKNOWN_ID, "x", Decimal(1), qty, datetime.now(UTC)), version)
            for qty, version in ((50, 1), (55, 2))
        )
        announcer = Announcer(cache, cast("Publisher", None), wait_s=0)
        await announcer.doubt(Change(before, after, Adjustment.RESTOCK))
        assert not await cache.fill(UNKNOWN_ID, 1, b"old")
        assert await cache.fill(UNKNOWN_ID, 2, b"new")


async def test_writers_that_wait_for_a_locked_row_hold_up_no_reader_of_another(
    environment: dict[str, str], database_url: str, audit: Audit
) -> None:
    async with running_product_api(environment, database_timeout_s=60) as api:
        api.timeout = 60
        locked, other = await create(api), await create(api)
        connection = await asyncpg.connect(database_url)
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM products WHERE id = $1 FOR UPDATE", locked.rpartition("/")[2])
            restocks = [asyncio.create_task(api.post(f"{locked}/restock", json={"quantity": 1})) for _ in range(24)]
            await eventually(lambda: _six_wait_for_locks(audit))
            async with asyncio.timeout(10):
                assert (await api.get(other)).status_code == 200
                assert (await api.get("/products")).status_code == 200
            assert not any(restock.done() for restock in restocks)
        await connection.close()
        assert {(await restock).status_code for restock in restocks} <= {200, 503}


async def _six_wait_for_locks(audit: Audit) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await audit.connection.fetchval(waiting) >= 6)


async def test_it_starts_before_postgres_does(environment: dict[str, str]) -> None:
    async with by_proxy(environment, "DATABASE_URL") as proxy:
        proxy.go_away()
        async with running_product_api(environment, ready="/livez") as api:
            assert await _status(api, "/readyz") == 503
            proxy.come_back()
            await eventually(lambda: _is_ready(api))
            await create(api)
