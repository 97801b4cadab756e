"""The cache of products against a real Redis: fences, and what happens while Redis is away (P7)."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from pipeline.cache.product_cache import TTL_S, CachedProduct, ProductCache
from pipeline.cache.redis_link import connect
from pipeline.process.health import Health
from tests.support.brokers.broker import running_task
from tests.support.data.metrics import grown, sample
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.processes import free_port
from tests.support.time.conditions import eventually

_ID = "01a20267-97ad-7199-a6a6-540000cf26ec"
_OLD, _NEW = b'{"qty":50}', b'{"qty":48}'


@pytest.fixture
def cache(redis: Redis) -> ProductCache:
    return ProductCache(redis)


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(redis_url) as it:
        yield it


@pytest.fixture
async def far_cache(proxy: Proxy, redis_url: str) -> AsyncIterator[ProductCache]:
    """A cache whose Redis can be taken away."""
    async with connect(proxy.url(redis_url)) as client:
        yield ProductCache(client)


# ── fences


async def test_a_body_is_read_as_it_was_filled_byte_by_byte(cache: ProductCache) -> None:
    body = '{"name":"Ünïcode 漢字 \\u0000","price":1500.00}'.encode()
    assert await cache.read(_ID) is None
    assert await cache.fill(_ID, 1, body)
    assert await cache.read(_ID) == CachedProduct(1, body)


async def test_many_are_read_at_once_and_what_is_not_there_or_not_ours_is_left_out(
    cache: ProductCache, redis: Redis
) -> None:
    there, busted, strange, absent = (f"{_ID[:-1]}{place}" for place in range(4))
    await cache.fill(there, 3, _OLD)
    await cache.bust_or_defer([(busted, 2)])
    await redis.set(f"product:{strange}", "no hash")
    found = await cache.read_many([absent, there, busted, strange])
    assert {id_: (it.version, it.body) for id_, it in found.items()} == {there: (3, _OLD)}
    assert 0 <= found[there].age_s < 5
    assert await cache.read_many([]) == {}


async def test_many_are_none_while_redis_is_away_or_owed_a_bust(far_cache: ProductCache, proxy: Proxy) -> None:
    await far_cache.fill(_ID, 1, _OLD)
    proxy.go_away()
    assert await far_cache.read_many([_ID]) == {}
    await far_cache.bust_or_defer([(_ID, 2)])
    proxy.come_back()
    assert await far_cache.read_many([_ID]) == {}


async def test_a_slow_reader_cannot_put_an_old_value_back_after_a_bust(cache: ProductCache) -> None:
    await cache.bust_or_defer([(_ID, 2)])
    assert not await cache.fill(_ID, 1, _OLD)
    assert await cache.read(_ID) is None


async def test_a_bust_takes_away_what_was_filled_before_it(cache: ProductCache) -> None:
    await cache.fill(_ID, 1, _OLD)
    await cache.bust_or_defer([(_ID, 2)])
    assert await cache.read(_ID) is None
    assert not await cache.fill(_ID, 1, _OLD)


async def test_a_bust_keeps_a_fill_of_the_same_version(cache: ProductCache) -> None:
    await cache.fill(_ID, 2, _NEW)
    await cache.bust_or_defer([(_ID, 2)])
    assert await cache.read(_ID) == CachedProduct(2, _NEW)


async def test_a_late_bust_keeps_a_newer_fill(cache: ProductCache) -> None:
    await cache.fill(_ID, 3, _NEW)
    await cache.bust_or_defer([(_ID, 2)])
    assert await cache.read(_ID) == CachedProduct(3, _NEW)


async def test_a_fill_after_the_bust_is_kept_and_the_slow_one_after_it_is_not(cache: ProductCache) -> None:
    await cache.bust_or_defer([(_ID, 2)])
    assert await cache.fill(_ID, 2, _NEW)
    assert not await cache.fill(_ID, 1, _OLD)
    assert await cache.read(_ID) == CachedProduct(2, _NEW)


async def test_whatever_the_order_of_fills_and_busts_nothing_older_than_the_last_bust_is_read(
    cache: ProductCache,
) -> None:
    """A hundred rounds of everything at once, interleaved as Redis happens to."""
    for round_ in range(100):
        product_id = f"{_ID}-{round_}"
        work = [cache.fill(product_id, version, b"%d" % version) for version in (1, 2, 3, 4)]
        work += [cache.bust_or_defer([(product_id, version)]) for version in (2, 3, 4)]
        random.shuffle(work)
        await asyncio.gather(*work)
        assert await cache.read(product_id) in (None, CachedProduct(4, b"4"))


async def test_one_call_busts_a_whole_batch(cache: ProductCache) -> None:
    ids = [f"{_ID}-{number}" for number in range(100)]
    for product_id in ids:
        await cache.fill(product_id, 1, _OLD)
    assert await cache.bust_or_defer((product_id, 2) for product_id in ids)
    assert [await cache.read(product_id) for product_id in ids] == [None] * 100


async def test_nothing_stays_for_ever(cache: ProductCache, redis: Redis) -> None:
    await cache.fill("filled", 1, _OLD)
    await cache.bust_or_defer([("busted", 2)])
    assert 0 < await redis.ttl("product:filled") <= TTL_S
    assert TTL_S < await redis.ttl("product:busted") <= 300


# ── what others put there


@pytest.mark.parametrize("version", ["x", "", "1_0", "-1", "9" * 5000, "1.5", "\u0661", "inf"])
async def test_a_version_that_is_none_is_a_miss_and_makes_way(cache: ProductCache, redis: Redis, version: str) -> None:
    for _ in range(2):
        await redis.hset(f"product:{_ID}", mapping={"version": version, "body": _OLD})
        assert await cache.read(_ID) is None
        assert await cache.fill(_ID, 2, _NEW)
        assert await cache.read(_ID) == CachedProduct(2, _NEW)
    await redis.hset(f"product:{_ID}", mapping={"version": version, "body": _OLD})
    assert await cache.bust_or_defer([(_ID, 3)])
    assert not await cache.fill(_ID, 2, _NEW)


async def test_a_key_of_another_type_is_a_miss_of_that_product_and_makes_way(
    cache: ProductCache, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await cache.fill("another", 1, _OLD)
    await redis.set(f"product:{_ID}", "a string")
    assert await cache.read(_ID) is None
    assert await cache.read("another") == CachedProduct(1, _OLD)
    assert await cache.fill(_ID, 1, _OLD)
    assert await cache.read(_ID) == CachedProduct(1, _OLD)
    await redis.delete(f"product:{_ID}")
    await redis.rpush(f"product:{_ID}", "a list")
    assert await cache.bust_or_defer([(_ID, 2), ("another", 2)])
    assert [await cache.read(_ID), await cache.read("another")] == [None, None]
    assert not await cache.fill(_ID, 1, _OLD)


# ── Redis away


async def test_without_redis_nothing_raises_and_nothing_waits() -> None:
    async with connect(f"redis://127.0.0.1:{free_port()}/0") as client:
        cache = ProductCache(client)
        began = time.monotonic()
        for _ in range(100):
            assert await cache.read(_ID) is None
            assert not await cache.fill(_ID, 1, _OLD)
            assert not await cache.bust_or_defer([(_ID, 2)])
        assert time.monotonic() - began < 1


async def test_a_bust_that_failed_is_made_up_for_by_the_next(
    far_cache: ProductCache, proxy: Proxy, cache: ProductCache
) -> None:
    await cache.fill(_ID, 1, _OLD)
    proxy.go_away()
    assert not await far_cache.bust_or_defer([(_ID, 2)])
    proxy.come_back()
    assert await cache.read(_ID) == CachedProduct(1, _OLD)  # only this cache can know
    await eventually(lambda: far_cache.bust_or_defer([("another", 2)]))
    assert await cache.read(_ID) is None
    assert not await cache.fill(_ID, 1, _OLD)


async def test_who_owes_a_bust_does_not_read_the_old_value_itself(
    far_cache: ProductCache, proxy: Proxy, cache: ProductCache
) -> None:
    await cache.fill(_ID, 1, _OLD)
    proxy.go_away()
    await far_cache.bust_or_defer([(_ID, 2)])
    proxy.come_back()
    assert await eventually(lambda: far_cache.fill("another", 1, _NEW))  # Redis is back for this cache
    assert await far_cache.read(_ID) is None
    assert await far_cache.bust_deferred()


async def test_the_watch_pays_what_is_owed_and_tells_health(
    far_cache: ProductCache, proxy: Proxy, cache: ProductCache
) -> None:
    health = Health("test", optional=("redis",))
    watching = asyncio.create_task(far_cache.watch(health, "redis"))
    await eventually(lambda: health.is_up("redis"))
    await cache.fill(_ID, 1, _OLD)
    proxy.go_away()
    await far_cache.bust_or_defer([(_ID, 2)])
    await eventually(lambda: not health.is_up("redis"))
    proxy.come_back()
    await eventually(lambda: health.is_up("redis"))
    await eventually(lambda: _is_gone(cache))
    watching.cancel()


async def test_a_redis_that_answers_and_refuses_to_write_is_not_said_to_be_there(
    far_cache: ProductCache, redis: Redis
) -> None:
    health = Health("test", optional=("redis",))
    async with running_task(far_cache.watch(health, "redis")):
        await eventually(lambda: health.is_up("redis"))
        await redis.replicaof("127.0.0.1", "1")
        try:
            await far_cache.bust_or_defer([(_ID, 2)])
            await eventually(lambda: not health.is_up("redis"))
        finally:
            await redis.replicaof("NO", "ONE")
        await eventually(lambda: health.is_up("redis"))
        assert await far_cache.bust_deferred()


async def test_a_redis_that_has_forgotten_everything_is_told_of_once(far_cache: ProductCache, redis: Redis) -> None:
    """Without fences a slow reader can store an old value. Only the epoch tells this cache from a cold one."""

    async def looks() -> int:
        calls: int = (await redis.info("commandstats")).get("cmdstat_set", {"calls": 0})["calls"]
        return calls

    async def looks_twice() -> None:
        before = await looks()

        async def has_looked() -> bool:
            return await looks() > before + 2

        await eventually(has_looked)

    health = Health("test", optional=("redis",))
    async with grown(sample("headrace_cache_losses_total")) as losses:
        with capture_logs() as logs:
            async with running_task(far_cache.watch(health, "redis")):
                await looks_twice()
                await redis.flushdb()
                await looks_twice()
                await looks_twice()
        assert losses() == [1]
    assert len([it for it in logs if "forgotten everything" in it["event"]]) == 1


async def _is_gone(cache: ProductCache) -> bool:
    return await cache.read(_ID) is None


async def test_a_redis_that_hangs_costs_its_readers_one_deadline_and_then_nothing(
    far_cache: ProductCache, proxy: Proxy
) -> None:
    await far_cache.fill(_ID, 1, _OLD)
    proxy.hold()
    began = time.monotonic()
    assert await asyncio.gather(*(far_cache.read(_ID) for _ in range(10))) == [None] * 10
    assert time.monotonic() - began < 2.5
    began = time.monotonic()
    for _ in range(100):
        assert await far_cache.read(_ID) is None
    assert time.monotonic() - began < 0.5


@pytest.mark.alone
async def test_while_a_redis_that_hangs_is_watched_nobody_else_waits_for_it_twice(
    far_cache: ProductCache, proxy: Proxy
) -> None:
    """Otherwise a batch every few milliseconds would ask Redis about once a second, and wait for a deadline."""
    health = Health("test", optional=("redis",))
    async with running_task(far_cache.watch(health, "redis")):
        await eventually(lambda: health.is_up("redis"))
        proxy.hold()
        waits: list[float] = []
        began = time.monotonic()

        async def has_gone_on_for_long() -> bool:
            asked = time.monotonic()
            await far_cache.bust_or_defer([(_ID, 2)])
            waits.append(time.monotonic() - asked)
            return asked > began + 5

        await eventually(has_gone_on_for_long)
        assert sum(it > 0.3 for it in waits) <= 1
        assert max(waits) < 2.5
        proxy.come_back()
        await eventually(lambda: far_cache.bust_or_defer([(_ID, 3)]))


async def test_after_an_outage_the_cache_is_used_again(far_cache: ProductCache, proxy: Proxy) -> None:
    proxy.go_away()
    assert await far_cache.read(_ID) is None
    proxy.come_back()
    assert await eventually(lambda: far_cache.fill(_ID, 1, _OLD))
    assert await far_cache.read(_ID) == CachedProduct(1, _OLD)


async def test_what_is_owed_is_bounded(far_cache: ProductCache, proxy: Proxy) -> None:
    proxy.go_away()
    await far_cache.bust_or_defer((f"product-{number}", 2) for number in range(10_100))
    assert len(far_cache._deferred) == 10_000
    assert "product-10099" in far_cache._deferred
    proxy.come_back()
    assert await eventually(far_cache.bust_deferred)
