"""Claims in Redis: which request holds a key, its prices, and shared round trips (P5)."""

import asyncio
import time

from redis.asyncio import Redis

from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.records import Claim, KeyConflict, Replay
from ingest_api.idempotency.redis_trust import NO_KEY_MEMORY
from pipeline.cache.redis_link import connect
from tests.support.faults.faults import proxy_to
from tests.support.scenes.claiming import OLD, ORDER, OTHER, PRICED, PRICED_LATER, answered, begin, claim, claiming
from tests.support.time.conditions import eventually

# ── one key


async def test_p5_a_claim_carries_what_was_priced_before_it_is_published(redis: Redis) -> None:
    async with claiming(redis, in_flight_s=1) as claims:
        await claim(claims)
        assert await begin(claims) is KeyConflict.IN_FLIGHT
        await asyncio.sleep(1.1)  # its process has died
        later = await claim(claims, priced=PRICED_LATER)
        assert (later.priced, later.in_doubt) == (PRICED, True)


async def test_p5_a_doubt_outlives_every_retry_and_keeps_its_price(redis: Redis) -> None:
    async with claiming(redis) as claims:
        claims.give_up(await claim(claims), may_be_accepted=True, is_sure=True)
        for _ in range(3):
            again = await claim(claims, priced=PRICED_LATER)
            assert (again.priced, again.in_doubt) == (PRICED, True)
            claims.give_up(again, may_be_accepted=False, is_sure=True)
            assert isinstance(await begin(claims, order=OTHER), bytes)
        claims.remember(await claim(claims), PRICED)
        assert await begin(claims, priced=PRICED_LATER) == Replay(ORDER, PRICED)


async def test_a_refusal_without_a_doubt_frees_the_key_for_any_order(redis: Redis) -> None:
    async with claiming(redis) as claims:
        claims.give_up(await claim(claims), may_be_accepted=False, is_sure=True)
        claims.give_up(await claim(claims, order=OTHER), may_be_accepted=False, is_sure=True)
        assert not (await claim(claims)).in_doubt


async def test_whoever_settles_late_changes_nothing_of_the_next_one(redis: Redis) -> None:
    async with claiming(redis, in_flight_s=0.1) as claims:
        late = await claim(claims)
        await asyncio.sleep(0.2)
        next_one = await claim(claims, priced=PRICED_LATER)
        claims.give_up(late, may_be_accepted=False, is_sure=True)
        await claims.drain()
        claims.remember(next_one, next_one.priced)
        await claims.drain()
        claims.give_up(late, may_be_accepted=True, is_sure=True)
        await claims.drain()
        assert await begin(claims) == Replay(ORDER, PRICED)


async def test_a_look_claims_nothing(redis: Redis) -> None:
    async with claiming(redis) as claims:
        assert isinstance(await begin(claims, priced=""), Claim)
        assert await redis.keys("*a*") == []


async def test_p5_an_order_of_a_key_before_the_rotation_is_found(redis: Redis) -> None:
    async with claiming(redis) as claims:
        claims.give_up(await claim(claims, order=OLD), may_be_accepted=True, is_sure=True)
        begun, _ = await claims.begin("a", [ORDER, OLD], PRICED_LATER, "")
        assert isinstance(begun, Claim)
        assert (begun.order_id, begun.priced) == (OLD, PRICED)


async def test_what_is_not_ours_is_written_over_when_told_to(redis: Redis) -> None:
    async with claiming(redis) as claims:
        await claim(claims, order=OTHER)
        theirs = await begin(claims)
        assert isinstance(theirs, bytes)
        await redis.rpush("b", "a list")
        assert isinstance((await claims.begin("a", [ORDER], PRICED, "", theirs))[0], Claim)
        assert isinstance(await begin(claims, "b"), Claim)


# ── what it costs, and a Redis that hangs


async def test_all_who_wait_together_share_one_round_trip(redis_url: str, redis: Redis) -> None:
    async with proxy_to(redis_url) as between, connect(between.url(redis_url)) as client, claiming(client) as claims:
        await claim(claims, "warm")
        between.hold()
        first = asyncio.create_task(begin(claims, "first"))
        await eventually(lambda: claims._calling.locked())
        others = [asyncio.create_task(begin(claims, f"{number}")) for number in range(50)]
        # The held call is the first request's, or only a look. Then the first request waits with the others.
        await eventually(lambda: len(claims._to_begin) >= 50)
        before = await _evals(redis)
        between.come_back()
        assert all(isinstance(it, Claim) for it in await asyncio.gather(first, *others))
        assert await _evals(redis) - before <= 2


async def _evals(redis: Redis) -> int:
    calls: int = (await redis.info("commandstats")).get("cmdstat_eval", {}).get("calls", 0)
    return calls


async def test_those_who_come_while_redis_hangs_do_not_wait_for_a_second_try(redis_url: str) -> None:
    async with proxy_to(redis_url) as between, connect(between.url(redis_url)) as client, claiming(client) as claims:
        await answered(claims, "known")
        between.hold()
        began = time.monotonic()
        first = asyncio.create_task(claims.begin("a", [ORDER], PRICED, ""))
        await eventually(lambda: not claims._to_begin and claims._calling.locked())
        second = asyncio.create_task(claims.begin("b", [ORDER], PRICED, ""))
        begun = [await first, await second]
        assert time.monotonic() - began < 1.5
        assert [memory for _, memory in begun] == [NO_KEY_MEMORY, NO_KEY_MEMORY]
        await eventually(lambda: claims._breaker.is_away)
        assert await begin(claims, "known", priced=PRICED_LATER) == Replay(ORDER, PRICED)  # what the process knows
        claims.remember(begun[0][0], PRICED)  # type: ignore[arg-type]
        assert not claims._held.settling


async def test_one_who_leaves_the_queue_takes_no_key(redis: Redis) -> None:
    claims = Claims(redis, "one:", remember_s=60, in_flight_s=8, max_waiting=100, max_bytes_per_client=2**20)
    leaving = asyncio.create_task(begin(claims, "a"))
    await eventually(lambda: claims._to_begin)
    leaving.cancel()
    await asyncio.wait({leaving})
    await claims.drain()
    assert await redis.get("a") is None
