"""How far claims trust Redis' memory of keys: what it forgets, what is put back, and each client's share (P5, P8)."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import msgspec
import pytest
from redis.asyncio import Redis

from ingest_api.idempotency import redis_trust
from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.records import Claim, Replay, name_of, pack
from ingest_api.idempotency.redis_trust import COMPLETE, SETTLED, UNSETTLED, KeyMemory
from pipeline.contract.orders import AnyOrder
from tests.support.data.orders import basket, new_product_id, order
from tests.support.scenes.claiming import ORDER, PRICED, PRICED_LATER, answered, begin, claim, claiming
from tests.support.time.conditions import eventually


async def memory_of(claims: Claims, client: str = "") -> KeyMemory:
    return (await claims.begin("nothing", [ORDER], "", client))[1]


async def test_p5_a_memory_begins_unsettled_and_all_processes_hear_what_one_found_out(redis: Redis) -> None:
    async with claiming(redis) as claims, claiming(redis) as others:
        memory = await memory_of(claims)
        assert memory.level == UNSETTLED
        claims.raise_to(memory, COMPLETE)
        await claims.drain()
        assert (await memory_of(others)).level == COMPLETE
        others.raise_to(memory, SETTLED)  # knows less
        await others.drain()
        assert (await memory_of(claims)).level == COMPLETE


@pytest.mark.parametrize("how", ["emptied", "restarted with older data", "short of memory", "marker of another kind"])
async def test_p5_a_redis_that_may_have_forgotten_begins_anew(redis: Redis, how: str) -> None:
    async with claiming(redis) as claims:
        memory = await memory_of(claims)
        claims.raise_to(memory, COMPLETE)
        await claims.drain()
        if how == "emptied":
            await redis.flushdb()
        elif how == "marker of another kind":
            await redis.set("one:memory", "x")
        else:
            await redis.hset("one:memory", "run" if how.startswith("restarted") else "evicted", "another")
        await asyncio.sleep(0.01)
        again = await memory_of(claims)
        assert again.level == UNSETTLED
        assert again.began_ms > memory.began_ms


async def test_p5_what_a_process_knows_is_put_back_into_an_emptied_redis(redis: Redis) -> None:
    async with claiming(redis) as claims, claiming(redis) as others:
        claims.give_up(await claim(claims, "doubt"), may_be_accepted=True, is_sure=True)
        for number in range(1_200):
            claims.remember(await claim(claims, f"{number}"), PRICED)
        await claims.drain()
        await redis.flushdb()
        # At once in the process that found it out, and within seconds in the others.
        assert await begin(claims, "7", priced=PRICED_LATER) == Replay(ORDER, PRICED)
        await eventually(lambda: redis.exists("0"))
        assert await begin(others, "1199", priced=PRICED_LATER) == Replay(ORDER, PRICED)
        doubt = await claim(others, "doubt", priced=PRICED_LATER)
        assert (doubt.priced, doubt.in_doubt) == (PRICED, True)


async def test_p5_an_order_published_without_redis_ends_the_belief_in_its_memory(redis: Redis) -> None:
    async with claiming(redis) as claims:
        claims.raise_to(await memory_of(claims), COMPLETE)
        claims.published_without()
        await claims.drain()
        assert (await memory_of(claims)).level == UNSETTLED


# A share of 1 MiB holds nine.
LARGE = "p" * 100_000


async def test_p8_a_client_past_its_share_loses_its_own_oldest_claims(redis: Redis) -> None:
    async with claiming(redis) as claims:
        claims.raise_to(await memory_of(claims), COMPLETE)
        assert isinstance(await begin(claims, "theirs", client="quiet"), Claim)
        for number in range(14):
            claims.remember(await claim(claims, f"{number}", priced=LARGE), LARGE)
        await claims.drain()
        held = [number for number in range(14) if await redis.exists(f"{number}")]
        assert held == list(range(5, 14))
        assert await redis.exists("theirs")
        # For this client, Redis's memory reaches back to the last dropped claim; for other clients, as before.
        assert (await memory_of(claims)).level == UNSETTLED
        assert (await memory_of(claims, "quiet")).level == COMPLETE


async def test_p8_redis_holds_no_more_of_a_client_than_its_share(redis: Redis) -> None:
    """Small and large claims, measured by Redis's used_memory_dataset."""
    async with claiming(redis) as claims:
        await memory_of(claims)
        before = (await redis.info("memory"))["used_memory_dataset"]
        for number in range(4_000):
            claims.remember(await claim(claims, f"{number:0100}", priced="p" * (40 if number % 50 else 31_000)), "")
        await claims.drain()
        await takes_less(redis, before + 1.3 * 2**20)


async def takes_less(redis: Redis, most_bytes: float) -> None:
    """Wait until Redis holds less than so much data. Its figure has buffers of clients in it for a while."""

    async def does() -> bool:
        return bool((await redis.info("memory"))["used_memory_dataset"] < most_bytes)

    await eventually(does)


async def test_p8_a_key_takes_no_more_of_redis_than_operators_are_told(redis: Redis) -> None:
    """docs/operate/idempotency.md: one order, one of 50 lines, many orders, and the most lines that a body can have."""
    sizes = ((1, 0, 4_000, 400), (1, 50, 2_000, 1_200), (1_000, 0, 50, 33_000), (1_000, 2, 50, 60_000))
    for orders, lines, keys, most in sizes:
        async with claiming(redis, max_bytes=64 * 2**20) as claims:
            await memory_of(claims)
            before = (await redis.info("memory"))["used_memory_dataset"]
            for _ in range(keys):
                name = name_of("one:", "shop", str(uuid4()), is_bulk=orders > 1)
                priced = pack(202, [_order(Decimal(number + 1000) / 100, lines) for number in range(orders)])
                claims.remember(await claim(claims, name, uuid4().hex, priced), priced)
            await claims.drain()
            await takes_less(redis, before + keys * most)


def _order(price: Decimal, lines: int) -> AnyOrder:
    if not lines:
        return order(new_product_id(), price=str(price))
    made = basket(*((new_product_id(), 1) for _ in range(lines)))
    dearest = Decimal("9999999900.99")  # as long as a price can be
    priced = tuple(msgspec.structs.replace(it, unit_price=dearest - price + it.line) for it in made.lines)
    return msgspec.structs.replace(made, lines=priced)


async def test_p5_a_refused_request_of_before_drops_no_later_claim_of_its_key(redis: Redis) -> None:
    async with claiming(redis) as claims:
        await memory_of(claims)
        claims.give_up(await claim(claims, "again"), may_be_accepted=False, is_sure=True)
        for number in range(8):
            claims.remember(await claim(claims, f"{number}", priced=LARGE), LARGE)
        claims.give_up(await claim(claims, "again"), may_be_accepted=True, is_sure=True)
        await claims.drain()
        claims.remember(await claim(claims, "last", priced=LARGE), LARGE)  # the end of the first "again"
        claims.remember(await claim(claims, "very last", priced=LARGE), LARGE)
        await claims.drain()
        assert not await redis.exists("0")
        again = await claim(claims, "again", priced=PRICED_LATER)
        assert (again.priced, again.in_doubt) == (PRICED, True)


async def test_p5_what_is_put_back_keeps_its_age_and_counts_for_its_client(redis: Redis) -> None:
    async with claiming(redis) as claims:
        old = Claim("old", ORDER, "o" * 16, PRICED, in_doubt=True, made=f"{await _now_ms(redis) - 61_000:013d}")
        claims.remember(old, PRICED)
        claims.remember(replace(old, name="young", made=f"{await _now_ms(redis) - 20_000:013d}"), PRICED)
        await claims.drain()
        assert not await redis.exists("old")
        assert await redis.exists("young")
        await answered(claims, "new")
        await redis.flushdb()
        await memory_of(claims)
        await eventually(lambda: redis.exists("young"))
        entries = await redis.lrange("one:claims:", 0, -1)
        assert [it.split()[-1] for it in entries] == [b"young", b"new"]
        assert not await redis.exists("old")
        assert isinstance(await begin(claims, "young"), Replay)


async def test_p8_a_client_past_its_share_waits_for_the_store_only_now_and_then(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that is found stored shows that all earlier claims are stored, so the next order need not wait."""
    # Each is for ever until the test lets it pass, so that it does not matter how fast the machine is.
    monkeypatch.setattr(redis_trust, "OVERTAKES_S", 3600.0)
    monkeypatch.setattr(redis_trust, "LEARNED_FOR_S", 3600.0)
    async with claiming(redis) as claims:
        claims.raise_to(await memory_of(claims), SETTLED)
        for number in range(11):
            claims.remember(await claim(claims, f"{number}", priced=LARGE), LARGE)
        await claims.drain()
        waited = await memory_of(claims)
        assert waited.level == UNSETTLED
        claims.raise_to(waited, SETTLED)  # too soon after the dropped claim, so it shows nothing
        monkeypatch.setattr(redis_trust, "LEARNED_FOR_S", 0.1)
        await asyncio.sleep(0.2)
        for _ in range(2):
            waited = await memory_of(claims)
            assert waited.level == UNSETTLED
        monkeypatch.setattr(redis_trust, "OVERTAKES_S", 0.1)
        monkeypatch.setattr(redis_trust, "LEARNED_FOR_S", 3600.0)
        claims.raise_to(waited, SETTLED)
        # A request that asked the store before the order was stored.
        assert (await memory_of(claims)).level == UNSETTLED
        monkeypatch.setattr(redis_trust, "LEARNED_FOR_S", 0.1)
        await asyncio.sleep(0.2)
        await memory_of(claims)
        assert (await memory_of(claims)).level == SETTLED


async def _now_ms(redis: Redis) -> int:
    seconds, microseconds = await redis.time()
    return seconds * 1_000 + microseconds // 1_000


async def test_two_namespaces_share_nothing(redis: Redis) -> None:
    async with claiming(redis, "one:") as one, claiming(redis, "two:") as two:
        one.raise_to(await memory_of(one), COMPLETE)
        await one.drain()
        assert (await memory_of(two)).level == UNSETTLED
