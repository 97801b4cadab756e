"""Each service has a user in Redis that may do what it needs, and nothing else: no FLUSHALL, no CONFIG, no KEYS."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.records import Claim
from pipeline.cache.order_list_cache import Lease, OrderListCache
from pipeline.cache.product_cache import ProductCache
from pipeline.cache.redis_link import connect
from stack.home.credentials import generate
from stack.servers.accounts import redis_passwords
from stack.servers.redis_users import RIGHTS, Rights, definitions, user_name
from tests.support.data.orders import new_product_id
from tests.support.data.redis_names import NAMESPACE, REDIS_NAMESPACE
from tests.support.services.accounts import redis_users_in, refusals, set_users

MADE = generate()
ORDER, PRODUCT = "f" * 32, new_product_id()
# Redis accepts these from every user: they log in.
OF_THE_CONNECTION = {"auth", "hello", "quit", "reset"}
FOREIGN = ("other:product:1", "product:1", f"x{NAMESPACE}memory", f"{REDIS_NAMESPACE}x:claim:1", f"{NAMESPACE}else")


@pytest.fixture
async def caches(redis_url: str) -> AsyncIterator[Mapping[str, str]]:
    async with redis_users_in(redis_url, MADE) as urls:
        yield urls


# ── what each needs


async def use_as_ingest_api(redis: Redis, admin: Redis) -> None:
    """Claims: begun, answered, replayed, given up, put back, dropped past a share. Pages of orders. Prices."""
    claims = Claims(redis, NAMESPACE, remember_s=60, in_flight_s=8, max_waiting=100, max_bytes_per_client=1_000)
    running = asyncio.create_task(claims.run())
    await admin.set(f"{NAMESPACE}memory", "somebody else's")
    for name in ("a", "a", "b", "c"):
        begun, memory = await claims.begin(f"{NAMESPACE}claim:{name}", [ORDER], "10 euros", "shop")
        claims.raise_to(memory, 1)
        if isinstance(begun, Claim):
            claims.remember(begun, "10 euros")
        await claims.drain()
    begun, _ = await claims.begin(f"{NAMESPACE}claim:d", [ORDER], "10 euros", "shop")
    if isinstance(begun, Claim):
        claims.give_up(begun, may_be_accepted=False, is_sure=True)
        made = f"{round(float((await admin.time())[0])) * 1_000:013d}"
        claims.remember(replace(begun, name=f"{NAMESPACE}claim:e", made=made), "10 euros")
    await claims.drain()
    running.cancel()
    lists = OrderListCache(redis, NAMESPACE)
    await admin.set(f"{NAMESPACE}orders-of-product:{PRODUCT}", "somebody else's")
    for _ in range(2):
        if isinstance(lease := await lists.read(PRODUCT, "shop"), Lease):
            await lists.fill(lease, b"[]")
    await lists.bust([PRODUCT])
    cache = ProductCache(redis, NAMESPACE)
    await cache.read_many([PRODUCT])
    await look_at_epoch(cache)


async def use_as_product_api(redis: Redis, admin: Redis) -> None:
    cache = ProductCache(redis, NAMESPACE)
    await admin.set(f"{NAMESPACE}product:{PRODUCT}", "somebody else's")
    await cache.read(PRODUCT)
    await cache.fill(PRODUCT, 1, b"{}")
    await cache.read(PRODUCT)
    await use_as_product_consumer(redis, admin)


async def use_as_product_consumer(redis: Redis, admin: Redis) -> None:
    cache = ProductCache(redis, NAMESPACE)
    await admin.set(f"{NAMESPACE}product:{new_product_id()}", "somebody else's")
    await cache.bust_or_defer([(PRODUCT, 2), (new_product_id(), 1)])
    await look_at_epoch(cache)


async def look_at_epoch(cache: ProductCache) -> None:
    """Ask what all three services ask each second. A command without permission is refused."""
    with contextlib.suppress(NoPermissionError):
        await cache._look_at_epoch()


USES: dict[str, Callable[[Redis, Redis], Awaitable[None]]] = {
    "ingest_api": use_as_ingest_api,
    "product_api": use_as_product_api,
    "product_consumer": use_as_product_consumer,
}


def test_all_but_persist_worker_use_redis() -> None:
    assert RIGHTS.keys() - USES.keys() == {"persist_worker"}
    assert RIGHTS["persist_worker"] == Rights()


@pytest.mark.parametrize("service", USES)
async def test_each_may_do_what_it_needs(caches: Mapping[str, str], redis: Redis, service: str) -> None:
    async with connect(caches[service]) as own:
        await USES[service](own, redis)
    assert await refusals(redis) == []


def _less(rights: Rights) -> list[tuple[str, Rights]]:
    """Each permission, with the commands and keys that remain without it."""
    return [
        (it, replace(rights, **{kind: tuple(other for other in getattr(rights, kind) if other != it)}))
        for kind in ("commands", "reads", "writes")
        for it in getattr(rights, kind)
    ]


@pytest.mark.parametrize("service", USES)
async def test_each_needs_all_that_it_may_do(
    caches: Mapping[str, str], redis: Redis, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any single permission, the service is refused something."""
    unneeded = []
    for right, rest in _less(RIGHTS[service]):
        await redis.flushdb()
        with monkeypatch.context() as patched:
            patched.setattr("stack.servers.redis_users.RIGHTS", {**RIGHTS, service: rest})
            await set_users(redis, definitions(redis_passwords(MADE), REDIS_NAMESPACE))
        await redis.acl_log_reset()
        async with connect(caches[service]) as own:
            await USES[service](own, redis)
        pattern = re.compile(re.escape(NAMESPACE + right).replace(r"\*", ".*"))
        if not any(it == right or pattern.fullmatch(it) for it in await refusals(redis)):
            unneeded.append(right)
    assert unneeded == []


# ── what each must not do


@pytest.mark.parametrize("service", RIGHTS)
async def test_every_other_command_of_this_redis_is_refused(
    caches: Mapping[str, str], redis: Redis, service: str
) -> None:
    allowed = {name for name in await _commands(redis) if await _may_run(redis, service, name)}
    assert allowed == {*RIGHTS[service].commands} | OF_THE_CONNECTION


async def _commands(redis: Redis) -> set[str]:
    """All commands of this Redis; those of two words as `config|get`."""
    listed = await redis.execute_command("COMMAND LIST")  # type: ignore[no-untyped-call]
    names = {it.decode() for it in listed}
    assert len(names) > 200
    return names - {name.partition("|")[0] for name in names if "|" in name}


async def _may_run(redis: Redis, service: str, name: str) -> bool:
    """Whatever the keys are."""
    for count in range(10):
        try:
            return "to run the" not in await _dry_run(redis, service, *name.split("|"), *["1"] * count)
        except ResponseError as error:
            if "wrong number of arguments" not in str(error).lower():
                raise
    pytest.fail(f"how many arguments does {name} take?")


async def _dry_run(redis: Redis, service: str, *words: str) -> str:
    user = user_name(REDIS_NAMESPACE, service)
    told: Any = await redis.execute_command("ACL", "DRYRUN", user, *words)  # type: ignore[no-untyped-call]
    return told.decode() if isinstance(told, bytes) else str(told)


READ_AND_WRITTEN = {
    "ingest_api": {
        "memory": "rw",
        "claim:1": "rw",
        "claims:shop": "rw",
        "claims:shop:dropped": "rw",
        "cache-epoch": "rw",
        "orders-of-product:1": "rw",
        "product:1": "r",
    },
    "product_api": {"product:1": "rw", "cache-epoch": "rw", "orders-of-product:1": "w"},
    "product_consumer": {"product:1": "rw", "cache-epoch": "rw", "orders-of-product:1": "w"},
}


@pytest.mark.parametrize("service", USES)
async def test_each_reaches_its_own_keys_of_its_own_deployment_alone(
    caches: Mapping[str, str], redis: Redis, service: str
) -> None:
    keys = {f"{NAMESPACE}{it}": "" for own in READ_AND_WRITTEN.values() for it in own} | dict.fromkeys(FOREIGN, "")
    keys |= {f"{NAMESPACE}{it}": may for it, may in READ_AND_WRITTEN[service].items()}
    for key, may in keys.items():
        found = {
            "r": await _dry_run(redis, service, "GET", key) == "OK",
            "w": await _dry_run(redis, service, "SET", key, "x") == "OK",
        }
        assert "".join(it for it, allowed in found.items() if allowed) == may, key


@pytest.mark.parametrize("service", USES)
@pytest.mark.parametrize(
    "words",
    [
        ("FLUSHALL",),
        ("CONFIG", "GET", "requirepass"),
        ("KEYS", "*"),
        ("ACL", "LIST"),
        ("SCRIPT", "FLUSH"),
        ("REPLICAOF", "NO", "ONE"),
        ("SUBSCRIBE", "x"),
        ("PUBLISH", "x", "y"),
        ("GET", "other:product:1"),
    ],
)
async def test_a_script_does_no_more_than_its_user(caches: Mapping[str, str], service: str, words: tuple[str]) -> None:
    quoted = ", ".join(f"'{it}'" for it in words)
    async with Redis.from_url(caches[service]) as own:
        with pytest.raises(NoPermissionError):
            await own.execute_command(*words)  # type: ignore[no-untyped-call]
        with pytest.raises(ResponseError, match=r"permission|can't|not allowed"):
            await own.eval(f"return redis.call({quoted})", 0)


async def test_persist_worker_may_log_in_and_do_nothing(caches: Mapping[str, str]) -> None:
    async with Redis.from_url(caches["persist_worker"]) as own:
        for words in (("PING",), ("GET", f"{NAMESPACE}product:1"), ("EVAL", "return 1", "0")):
            with pytest.raises(NoPermissionError):
                await own.execute_command(*words)  # type: ignore[no-untyped-call]


async def test_a_service_cannot_log_in_as_another_or_as_the_operator(caches: Mapping[str, str]) -> None:
    passwords = redis_passwords(MADE)
    async with Redis.from_url(caches["ingest_api"]) as own:
        for other in ("default", user_name(REDIS_NAMESPACE, "product_api")):
            with pytest.raises(AuthenticationError):
                await own.execute_command("AUTH", other, passwords["ingest_api"])  # type: ignore[no-untyped-call]


async def test_what_somebody_added_to_a_user_is_taken_back(caches: Mapping[str, str], redis: Redis) -> None:
    user = user_name(REDIS_NAMESPACE, "product_api")
    lines = [*definitions(redis_passwords(MADE), REDIS_NAMESPACE)]
    before = await redis.acl_getuser(user)
    added = ("+@all", "~*", "&*", ">another", "(+get ~else)")
    await redis.execute_command("ACL", "SETUSER", user, *added)  # type: ignore[no-untyped-call]
    assert await redis.acl_getuser(user) != before
    await set_users(redis, lines)
    assert await redis.acl_getuser(user) == before


async def test_a_second_deployment_on_one_redis_has_users_of_its_own(caches: Mapping[str, str], redis: Redis) -> None:
    await set_users(redis, definitions(dict.fromkeys(RIGHTS, "theirs"), "second"))
    try:
        async with connect(caches["ingest_api"]) as own:
            await use_as_ingest_api(own, redis)
        assert await refusals(redis) == []
    finally:
        await redis.acl_deluser(*(user_name("second", it) for it in RIGHTS))
