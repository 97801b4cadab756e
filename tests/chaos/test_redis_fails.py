"""Redis is killed, slow, or has forgotten everything, while readers fill the cache and orders bust it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.account.signs import Counts, Logged
from tests.chaos.scene.scene import BreakableScene
from tests.support.brokers.broker import running_task
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.deployment import SERVICES
from tests.support.services.workers import redis_client

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_AWAY = "redis is away; going on without"
_OWED = Counts("product_consumer", 'headrace_cache_busts_total{result="owed"}')
# Besides the one that every scenario has. All of them fill what the orders bust.
_READERS = 4
_EMPTY = "redis has forgotten everything"


@pytest.mark.deep
@pytest.mark.scenario("16", "Redis killed three times, with readers that fill what orders bust")
async def test_p7_redis_is_killed_and_comes_back_empty(scene: BreakableScene) -> None:
    """P7: its fences are gone with it. Orders go on; a bust that was missed is made up for."""
    async with scene.under_load(), running_task(*scene.readers(_READERS)):
        for _ in range(3):
            await scene.servers.kill("redis")
            scene.over()
            await scene.recovers()
    await scene.check(
        *(Logged(name, _AWAY) for name in ("product_consumer", "product_api")),
        *(Logged(name, _EMPTY) for name in ("product_consumer", "product_api")),
        Counts("product_api", "headrace_cache_losses_total"),
        _OWED,
    )


@pytest.mark.deep
@pytest.mark.scenario("16", "Redis answers after 1.5 s, for 15 s, with readers that fill what orders bust")
async def test_p7_redis_is_slow(redis_between: Proxy, scene: BreakableScene) -> None:
    """P7, P8: whoever waits for it waits once, and no bust is lost for being late."""
    async with scene.under_load(), running_task(*scene.readers(_READERS)):
        for _ in range(6):
            redis_between.hold()
            await scene.goes_on(1.5)
            redis_between.release()
            scene.over()
            await scene.recovers()
    await scene.check(Logged("product_consumer", _AWAY), _OWED)


@pytest.mark.deep
@pytest.mark.scenario("16", "Redis emptied 20 times, with readers that fill what orders bust")
async def test_p7_redis_forgets_everything_again_and_again(scene: BreakableScene) -> None:
    """P7: a slow reader can put back what a bust has forbidden, once the fence is gone; and no longer than a TTL."""
    async with scene.under_load(), running_task(*scene.readers(_READERS)):
        async with redis_client(scene.servers.urls.redis_url) as redis:
            for _ in range(20):
                await redis.flushdb()
                await scene.goes_on(0.5)
        scene.over()
        await scene.recovers()
    await scene.check(
        *(Logged(name, _EMPTY) for name in ("product_consumer", "product_api")),
        *(Counts(name, "headrace_cache_losses_total") for name in ("product_consumer", "product_api")),
    )


@pytest_asyncio.fixture(loop_scope="session")
async def redis_between(
    environment: dict[str, str], own_environment: dict[str, dict[str, str]]
) -> AsyncIterator[Proxy]:
    """What all services reach Redis through. A test names it before `scene`."""
    async with proxy_to(environment["REDIS_URL"]) as proxy:
        for name in SERVICES:
            own_environment.setdefault(name, {})["REDIS_URL"] = proxy.url(environment["REDIS_URL"])
        yield proxy
