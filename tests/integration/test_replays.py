"""What Redis remembers of keyed requests: who has a key, whose it stays, and what it costs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from ingest_api.idempotency import Claim, Replay, Replays, Taken
from pipeline.redis_link import connect
from tests.conditions import eventually
from tests.faults import proxy_to
from web import problems

ORDER, OTHER = b"f" * 16, b"o" * 16
DOUBT, REFUSAL = problems.outcome_unknown(), problems.out_of_stock("x")


@asynccontextmanager
async def replaying(redis: Redis, in_flight_s: float = 8) -> AsyncIterator[Replays]:
    replays = Replays(redis, remember_s=60, in_flight_s=in_flight_s, max_waiting=100)
    running = asyncio.create_task(replays.run())
    try:
        yield replays
    finally:
        running.cancel()


async def claim(replays: Replays, name: str = "a", order: bytes = ORDER, *, in_doubt: bool = False) -> Claim:
    begun = await replays.begin(name, order)
    assert isinstance(begun, Claim)
    assert begun.in_doubt == in_doubt
    return begun


async def test_whoever_settles_late_changes_nothing_of_the_next_one(redis: Redis) -> None:
    async with replaying(redis) as replays:
        late = await claim(replays)
        await redis.delete("a")  # its time in flight is over
        answered = await claim(replays)
        replays.remember(answered, 202, b"{}")
        await replays.drain()

        replays.give_up(late, REFUSAL)
        await replays.drain()
        assert await replays.begin("a", ORDER) == Replay(202, b"{}")


async def test_whoever_settles_late_does_not_free_the_key_of_another_in_flight(redis: Redis) -> None:
    async with replaying(redis) as replays:
        late = await claim(replays)
        await redis.delete("a")
        await claim(replays, order=OTHER)
        replays.free(late)
        assert await replays.begin("a", OTHER) is Taken.IN_FLIGHT
        replays.remember(late, 202, b"{}")
        assert await replays.begin("a", OTHER) is Taken.IN_FLIGHT


async def test_a_doubt_outlives_every_refused_retry_and_ends_with_an_answer(redis: Redis) -> None:
    async with replaying(redis) as replays:
        replays.give_up(await claim(replays), DOUBT)
        for _ in range(3):
            replays.give_up(await claim(replays, in_doubt=True), REFUSAL)
            assert await replays.begin("a", OTHER) is Taken.REUSED
        assert await redis.pttl("a") > 50_000
        replays.remember(await claim(replays, in_doubt=True), 202, b"{}")
        assert await replays.begin("a", ORDER) == Replay(202, b"{}")


async def test_a_refusal_without_a_doubt_frees_the_key_for_any_order(redis: Redis) -> None:
    async with replaying(redis) as replays:
        replays.give_up(await claim(replays), REFUSAL)
        replays.free(await claim(replays, order=OTHER))
        await claim(replays)


async def test_all_who_wait_together_share_one_round_trip(redis_url: str, redis: Redis) -> None:
    async with proxy_to(redis_url) as between, connect(between.url(redis_url)) as client, replaying(client) as replays:
        await claim(replays, "warm")
        between.hold()
        first = asyncio.create_task(replays.begin("first", ORDER))
        await eventually(lambda: not replays._to_begin and replays._calling.locked())
        others = [asyncio.create_task(replays.begin(f"{number}", ORDER)) for number in range(50)]
        await eventually(lambda: len(replays._to_begin) == 50)
        before = await _evals(redis)
        between.come_back()
        assert all(isinstance(it, Claim) for it in await asyncio.gather(first, *others))
        assert await _evals(redis) - before <= 2


async def _evals(redis: Redis) -> int:
    calls: int = (await redis.info("commandstats")).get("cmdstat_eval", {}).get("calls", 0)
    return calls


async def test_those_who_come_while_redis_hangs_do_not_wait_for_a_second_try(redis_url: str) -> None:
    async with proxy_to(redis_url) as between, connect(between.url(redis_url)) as client, replaying(client) as replays:
        await claim(replays, "warm")
        between.hold()
        began = time.monotonic()
        first = asyncio.create_task(claim(replays))
        await eventually(lambda: not replays._to_begin and replays._calling.locked())
        second = asyncio.create_task(claim(replays, "b"))
        claims = [await first, await second]
        assert time.monotonic() - began < 1.5
        await eventually(lambda: replays._breaker.is_away)
        replays.remember(claims[0], 202, b"{}")
        assert replays._to_settle == []


async def test_what_others_put_at_our_key_is_written_over_and_costs_nobody_else(redis: Redis) -> None:
    async with replaying(redis) as replays:
        await redis.rpush("a", "a list")
        await asyncio.gather(*(claim(replays, it) for it in ("a", "b")))
        taken = await asyncio.gather(*(replays.begin(it, ORDER) for it in ("a", "b")))
        assert set(taken) == {Taken.IN_FLIGHT}


async def test_one_who_leaves_the_queue_takes_no_key(redis: Redis) -> None:
    replays = Replays(redis, remember_s=60, in_flight_s=8, max_waiting=100)
    leaving = asyncio.create_task(replays.begin("a", ORDER))
    await eventually(lambda: replays._to_begin)
    leaving.cancel()
    await asyncio.wait({leaving})
    await replays.drain()
    assert await redis.get("a") is None
