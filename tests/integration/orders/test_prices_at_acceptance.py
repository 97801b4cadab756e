"""How ingest_api finds the price and stock of an ordered product: events, Redis, PostgreSQL (P7)."""

import asyncio
import math
import time
import uuid
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from database.sessions import StoreUnavailable, make_pool, reading
from ingest_api.prices import product_source
from ingest_api.prices.catalogue import Catalogue
from ingest_api.prices.product_source import ProductSource
from ingest_api.settings import IngestSettings
from pipeline.cache.product_cache import TTL_S, ProductCache
from pipeline.cache.redis_link import connect
from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent
from tests.support.data.redis_names import NAMESPACE
from tests.support.services.ingest import Ingest, execute, insert_product
from tests.support.services.settings import settings_from
from tests.support.services.workers import locked
from tests.support.time.conditions import eventually


async def test_events_close_and_open_the_door(ingest: Ingest, laptop: str) -> None:
    async def answers(status: int) -> bool:
        return (await ingest.order(laptop)).status_code == status

    assert await answers(202)
    await ingest.tell(topology.PRODUCT_SOLD_OUT, ProductEvent(laptop, 2, Decimal("1500.00"), 0))
    await eventually(lambda: answers(409))
    await ingest.tell(topology.PRODUCT_RESTOCKED, ProductEvent(laptop, 3, Decimal("1600.00"), 5))
    await eventually(lambda: answers(202))
    assert (await ingest.order(laptop)).json()["unit_price"] == 1600
    await ingest.tell(topology.PRODUCT_DELETED, ProductEvent(laptop, 4, Decimal("1600.00"), 5, deleted=True))
    await eventually(lambda: answers(422))


async def test_an_event_that_is_none_is_ignored(ingest: Ingest, laptop: str) -> None:
    await ingest.order(laptop)
    await ingest.tell(topology.PRODUCT_UPDATED, ProductEvent("?", -1, Decimal(-1), -1))
    await ingest.tell(topology.PRODUCT_UPDATED, msgspec.Raw(b'"nonsense"'))  # type: ignore[arg-type]
    await ingest.tell(topology.PRODUCT_SOLD_OUT, ProductEvent(laptop, 2, Decimal("1500.00"), 0))

    async def is_shut() -> bool:
        return (await ingest.order(laptop)).status_code == 409

    assert await eventually(is_shut)


async def test_a_cached_product_is_taken_from_redis(ingest: Ingest, redis_url: str, laptop: str) -> None:
    async with connect(redis_url) as redis:
        body = f'{{"id":"{laptop}","name":"x","price":1499.90,"qty":1,"createdAt":"2026-01-01T00:00:00Z"}}'
        await ProductCache(redis, NAMESPACE).fill(laptop, 7, body.encode())
    response = await ingest.order(laptop)
    assert b'"unit_price":1499.90,' in response.content
    assert await ingest.metric('headrace_catalogue_lookups_total{source="redis"}') == 1


async def test_a_cached_product_older_than_the_known_one_is_not_believed(
    environment: dict[str, str], redis_url: str, laptop: str, database_url: str
) -> None:
    """Its bust was lost, so PostgreSQL is asked. Its answer may be older too."""
    async with connect(redis_url) as redis, make_pool(database_url, "test", size=1, timeout_s=2) as pool:
        cache = ProductCache(redis, NAMESPACE)
        await cache.fill(laptop, 6, b'{"price":6.00,"qty":1}')
        source = ProductSource(cache, pool, timeout_s=2)
        found = [it for known in (0, 6, 7) if (it := (await source.load({laptop: known}))[laptop])]
        assert [it.state.version for it in found] == [6, 6, 1]


async def test_p7_a_cached_product_is_as_old_as_its_row_was_read_and_past_its_age_postgresql_is_asked(
    environment: dict[str, str], redis_url: str, laptop: str, database_url: str
) -> None:
    async with connect(redis_url) as redis, make_pool(database_url, "test", size=1, timeout_s=2) as pool:
        cache = ProductCache(redis, NAMESPACE)
        source = ProductSource(cache, pool, timeout_s=2, max_age_s=30)
        for age_s, version in ((10, 6), (29, 6), (31, 1)):
            await cache.fill(laptop, 6, b'{"price":6.00,"qty":1}', age_s)
            found = (await source.load({laptop: 0}))[laptop]
            assert found is not None
            assert found.state.version == version
            assert found.age_s == pytest.approx(age_s if version == 6 else 0, abs=1)
            assert await redis.pttl(f"{NAMESPACE}product:{laptop}") <= (TTL_S - age_s) * 1000
        await redis.hdel(f"{NAMESPACE}product:{laptop}", "read_ms")  # in the form of the previous release
        assert (await cache.read_many([laptop]))[laptop].age_s == TTL_S


async def test_a_thousand_products_asked_for_at_once_are_a_few_questions(
    environment: dict[str, str], redis_url: str, laptop: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a TTL, when all products become stale in the same second."""
    questions = []

    def counted(*arguments: Any) -> Any:
        questions.append(arguments)
        return reading(*arguments)

    monkeypatch.setattr(product_source, "reading", counted)
    cached, unknown = await insert_product(database_url), str(uuid.uuid4())
    products = [str(uuid.uuid4()) for _ in range(999)]
    prices = [Decimal(place) for place in range(999)]
    inserted = (
        "INSERT INTO products (id, name, price, qty) SELECT *, 0 FROM unnest($1::uuid[], $2::text[], $3::numeric[])"
    )
    await execute(database_url, inserted, products, ["x"] * 999, prices)
    async with connect(redis_url) as redis, make_pool(database_url, "test", size=1, timeout_s=5) as pool:
        cache = ProductCache(redis, NAMESPACE)
        await cache.fill(cached, 1, b'{"price":0.50,"qty":1}')
        catalogue = Catalogue(settings_from(IngestSettings, environment), ProductSource(cache, pool, timeout_s=5).load)
        finds = [catalogue.find(product_id, "") for product_id in [*products, cached, unknown]]
        *found, from_redis, nothing = await asyncio.gather(*finds)
    assert [product.price for product in found] == prices
    assert (from_redis.price, nothing.price) == (Decimal("0.50"), None)
    assert len(questions) <= 2 + math.ceil(1000 / 250)


async def test_a_store_that_does_not_answer_is_away_for_all_who_ask_within_the_timeout(
    environment: dict[str, str], redis_url: str, laptop: str, database_url: str
) -> None:
    """This includes requests that come while another waits. None of them delays later requests."""
    async with connect(redis_url) as redis, make_pool(database_url, "test", size=1, timeout_s=1) as pool:
        source = ProductSource(ProductCache(redis, NAMESPACE), pool, timeout_s=1)
        catalogue = Catalogue(settings_from(IngestSettings, environment), source.load)
        begun = time.monotonic()
        async with locked(database_url, "products"):
            finds = [asyncio.create_task(catalogue.find(str(uuid.uuid4()), "")) for _ in range(3)]
            await asyncio.sleep(0)
            finds.append(asyncio.create_task(catalogue.find(laptop, "")))
            outcomes = await asyncio.gather(*finds, return_exceptions=True)
        assert {type(it) for it in outcomes} == {StoreUnavailable}
        assert time.monotonic() - begun < 2.5

        async def is_found() -> bool:
            return laptop in await source.load({laptop: 0})

        await eventually(is_found)


async def test_a_damaged_cache_is_as_good_as_none(ingest: Ingest, redis_url: str, database_url: str) -> None:
    async with connect(redis_url) as redis:
        for body in (b"", b"nonsense", b"{}", b'{"price":"x","qty":1}', b"\xff"):
            product_id = await insert_product(database_url)
            await ProductCache(redis, NAMESPACE).fill(product_id, 7, body)
            assert (await ingest.order(product_id)).status_code == 202
