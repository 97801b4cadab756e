"""A Redis that answers and cannot do the work: demoted, full, under another password (P12). It counts as away, and
is used again as soon as it works.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.records import Claim, Replay
from pipeline.cache.order_list_cache import Lease, OrderListCache
from pipeline.cache.product_cache import ProductCache
from pipeline.cache.redis_link import connect
from pipeline.process import breaker
from pipeline.process.health import Health
from tests.support.brokers.broker import running_task
from tests.support.data.metrics import sample
from tests.support.data.orders import new_product_id
from tests.support.services.deployment import Deployment, deployed
from tests.support.time.conditions import eventually

SOON_S = 5.0
USERS = ("ingest_api", "product_api", "product_consumer")

Command = tuple[str, ...]


class Refusal(NamedTuple):
    """A way to make Redis refuse, and to end it."""

    begin: tuple[Command, ...]
    end: tuple[Command, ...]
    words: str
    """The cause in the log and in readiness."""
    cause: str
    """The cause in the metrics."""


def _config(name: str, value: str) -> Command:
    return ("CONFIG", "SET", name, value)


_DEMOTE, _PROMOTE = ("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")
_HANG_UP = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
REFUSALS = {
    "demoted": Refusal((_DEMOTE,), (_PROMOTE,), "it is a replica", "read_only"),
    "cut off": Refusal(
        (_config("replica-serve-stale-data", "no"), _DEMOTE),
        (_PROMOTE, _config("replica-serve-stale-data", "yes")),
        "it is a replica",  # this alone makes Redis refuse the writes
        "read_only",
    ),
    "full": Refusal(
        (_config("maxmemory-policy", "noeviction"), _config("maxmemory", "1")),
        (_config("maxmemory", "0"),),
        "memory is full",
        "out_of_memory",
    ),
    "too few replicas": Refusal(
        (_config("min-replicas-to-write", "1"),), (_config("min-replicas-to-write", "0"),), "replicas", "no_replicas"
    ),
    "another password": Refusal(
        (_config("requirepass", "another"), _HANG_UP), (("PASSWORD",),), "user or the password", "login_refused"
    ),
    "fewer rights": Refusal(
        (("ACL", "SETUSER", "default", "-@write", "-eval"),),
        (("ACL", "SETUSER", "default", "+@all"),),
        "a right",
        "no_right",
    ),
}


@asynccontextmanager
async def refusing(redis_url: str, refusal: Refusal) -> AsyncIterator[None]:
    """This Redis refuses during the block, and goes on serving the connection."""
    password = urlsplit(redis_url).password or ""
    async with Redis.from_url(redis_url, single_connection_client=True) as operator:
        policy = (await operator.config_get("maxmemory-policy"))["maxmemory-policy"]
        try:
            for command in refusal.begin:
                await operator.execute_command(*command)  # type: ignore[no-untyped-call]
            yield
        finally:
            for command in refusal.end:
                if command == ("PASSWORD",):
                    command = _config("requirepass", password)
                await operator.execute_command(*command)  # type: ignore[no-untyped-call]
            await operator.config_set("maxmemory-policy", str(policy))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The log lines about Redis: away, back."""
    lines: list[str] = []

    class Log:
        def warning(self, event: str, **_: object) -> None:
            lines.append(event)

        info = warning

    monkeypatch.setattr(breaker, "log", Log())
    return lines


@pytest.mark.parametrize("how", REFUSALS)
async def test_p12_a_redis_that_refuses_is_away_for_all_who_use_it_and_told_once(
    redis_url: str, how: str, told: list[str]
) -> None:
    refusal, health, product = REFUSALS[how], Health("test", optional=("redis",)), new_product_id()
    counted = sample("headrace_server_faults_total", server="redis", cause=refusal.cause)
    before = counted()
    async with connect(redis_url) as redis:
        cache, lists = ProductCache(redis), OrderListCache(redis)
        claims = Claims(redis, "", remember_s=60, in_flight_s=8, max_waiting=100, max_bytes_per_client=2**20)
        async with running_task(cache.watch(health, "redis"), claims.run()):
            await eventually(lambda: health.is_up("redis"))
            async with refusing(redis_url, refusal):
                async with asyncio.timeout(SOON_S):
                    await eventually(lambda: refusal.words in str(health.summary()))
                for number in range(20):  # no reply, no wait, and no new log line
                    assert await cache.read(product) is None
                    assert not await cache.fill(product, 1, b"{}")
                    assert await lists.read(product, "") is None
                    assert isinstance((await claims.begin(f"key {number}", ["f" * 32], "x", ""))[0], Claim)
                    await asyncio.sleep(0.1)
                assert not await cache.bust_or_defer([(product, 2)])
                assert told == ["redis is away; going on without"]
                assert counted() > before
            async with asyncio.timeout(SOON_S):
                await eventually(lambda: health.is_up("redis"))
            assert not await cache.fill(product, 1, b"{}")  # the owed bust has left its fence
            assert await cache.fill(product, 2, b"{}")
            lease = await lists.read(product, "")
            assert isinstance(lease, Lease)
            assert await lists.fill(lease, b"page")
            claim, _ = await claims.begin("key", ["f" * 32], "x", "")
            assert isinstance(claim, Claim)
            claims.remember(claim, "x")
            await claims.drain()
            assert isinstance((await claims.begin("key", ["f" * 32], "x", ""))[0], Replay)
            await eventually(lambda: told == ["redis is away; going on without", "redis is back"])


async def test_p12_a_redis_whose_address_leads_to_another_server_is_used_there(redis_url: str) -> None:
    """A connection to a demoted Redis would stay open as long as that server runs."""
    health = Health("test", optional=("redis",))
    async with connect(redis_url) as redis:
        cache = ProductCache(redis)
        async with running_task(cache.watch(health, "redis")):
            await eventually(lambda: health.is_up("redis"))
            known = {id(it) for it in redis.connection_pool._available_connections if it.is_connected}
            assert known
            async with refusing(redis_url, REFUSALS["demoted"]):
                await eventually(lambda: not health.is_up("redis"))
                await eventually(
                    lambda: not any(it.is_connected for it in redis.connection_pool._available_connections)
                )


@pytest.mark.deep
async def test_p12_orders_are_accepted_once_stored_and_decided_whatever_redis_refuses(
    environment: dict[str, str], redis_url: str
) -> None:
    async with deployed(environment) as deployment:
        product = await deployment.create_product(qty=1_000)
        for number, refusal in enumerate(REFUSALS.values(), start=1):
            async with refusing(redis_url, refusal):
                await _all_say(deployment, refusal.words)
                await _order_twice(deployment, product, f"key-{number}")
                assert (await deployment.product(product))["qty"] == 1_000 - number
            await _all_say(deployment, '"redis":"ok"')
            assert (await deployment.product(product))["qty"] == 1_000 - number
            for name in USERS:
                lines = deployment.services[name].log().splitlines()
                assert sum("redis is away" in line for line in lines) <= number
                assert sum("redis is back" in line for line in lines) <= number


async def _all_say(deployment: Deployment, words: str) -> None:
    for name in USERS:
        await eventually(partial(_says, deployment, name, words), SOON_S)


async def _says(deployment: Deployment, name: str, words: str) -> bool:
    async with deployment.client(name) as client:
        return words in (await client.get("/health")).text


async def _order_twice(deployment: Deployment, product: str, key: str) -> None:
    """Send the order again, like a client that lost the first answer. Wait until it is decided, once."""
    headers = {"Idempotency-Key": key}
    first, second = [await deployment.order(product, 1, **headers) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    order = await eventually(lambda: deployment.verdict(first.json()["id"]))
    assert order["status"] == "PROCESSED"
