"""What Redis remembers of keyed orders: who has a key, what it was priced at, and how far its memory is believed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.records import Claim, Replay, Taken, name_of, pack
from ingest_api.idempotency.redis_memory import COMPLETE, NO_MEMORY, SETTLED, UNSETTLED, Memory
from pipeline.cache.redis_link import connect
from pipeline.contract.orders import Order
from tests.support.faults.faults import proxy_to
from tests.support.time.conditions import eventually

ORDER, OLD, OTHER = "f" * 32, "e" * 32, "0" * 32
PRICED, PRICED_LATER = "10 euros", "25 euros"


@asynccontextmanager
async def claiming(
    redis: Redis, namespace: str = "one:", in_flight_s: float = 8, max_bytes: int = 2**20
) -> AsyncIterator[Claims]:
    limits = {"remember_s": 60, "in_flight_s": in_flight_s, "max_waiting": 100, "max_bytes_per_client": max_bytes}
    claims = Claims(redis, namespace, **limits)  # type: ignore[arg-type]
    running = asyncio.create_task(claims.run())
    try:
        yield claims
    finally:
        running.cancel()


async def begin(
    claims: Claims, name: str = "a", order: str = ORDER, priced: str = PRICED, client: str = ""
) -> Claim | Taken | Replay | bytes:
    return (await claims.begin(name, [order], priced, client))[0]


async def claim(claims: Claims, name: str = "a", order: str = ORDER, priced: str = PRICED) -> Claim:
    begun = await begin(claims, name, order, priced)
    assert isinstance(begun, Claim)
    return begun


async def memory_of(claims: Claims, client: str = "") -> Memory:
    return (await claims.begin("nothing", [ORDER], "", client))[1]


async def answered(claims: Claims, name: str) -> None:
    claims.remember(await claim(claims, name), PRICED)
    await claims.drain()


# ── one key


async def test_p5_a_claim_carries_what_was_priced_before_it_is_published(redis: Redis) -> None:
    async with claiming(redis, in_flight_s=0.2) as claims:
        await claim(claims)
        assert await begin(claims) is Taken.IN_FLIGHT
        await asyncio.sleep(0.3)  # its process has died
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


# ── how far the memory is believed


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
        # At once in the process that knows it, and within seconds in every other.
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
        # Of the client, Redis's memory reaches back to the last claim that it dropped; of the others, as before.
        assert (await memory_of(claims)).level == UNSETTLED
        assert (await memory_of(claims, "quiet")).level == COMPLETE


async def test_p8_redis_holds_no_more_of_a_client_than_its_share(redis: Redis) -> None:
    """Small and large ones: by what Redis itself says that they take."""
    async with claiming(redis) as claims:
        await memory_of(claims)
        before = (await redis.info("memory"))["used_memory_dataset"]
        for number in range(4_000):
            claims.remember(await claim(claims, f"{number:0100}", priced="p" * (40 if number % 50 else 31_000)), "")
        await claims.drain()
        assert (await redis.info("memory"))["used_memory_dataset"] - before < 1.3 * 2**20


async def test_p8_a_key_takes_no_more_of_redis_than_operators_are_told(redis: Redis) -> None:
    """docs/operate/idempotency.md: 400 bytes, and of a bulk request of 1,000 orders 33 kB at the most."""
    for orders, keys, most in ((1, 4_000, 400), (1_000, 50, 33_000)):
        async with claiming(redis, max_bytes=64 * 2**20) as claims:
            await memory_of(claims)
            before = (await redis.info("memory"))["used_memory_dataset"]
            for _ in range(keys):
                name = name_of("one:", "shop", str(uuid4()), is_bulk=orders > 1)
                priced = pack(202, [_order(Decimal(number + 1000) / 100) for number in range(orders)])
                claims.remember(await claim(claims, name, uuid4().hex, priced), priced)
            await claims.drain()
            taken = (await redis.info("memory"))["used_memory_dataset"] - before
            assert taken / keys < most


def _order(price: Decimal) -> Order:
    return Order(str(uuid4()), str(uuid4()), 1, price, price, datetime.now(UTC), status="PENDING")


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
    """One order that is found stored tells that all that was claimed well before it is, so the next need not wait."""
    monkeypatch.setattr("ingest_api.idempotency.redis_memory.OVERTAKES_S", 0.2)
    monkeypatch.setattr("ingest_api.idempotency.redis_memory.LEARNED_FOR_S", 0.1)
    async with claiming(redis) as claims:
        claims.raise_to(await memory_of(claims), SETTLED)
        for number in range(11):
            claims.remember(await claim(claims, f"{number}", priced=LARGE), LARGE)
        await claims.drain()
        waited = await memory_of(claims)
        assert waited.level == UNSETTLED
        claims.raise_to(waited, SETTLED)  # too soon after what was dropped: it tells nothing
        await asyncio.sleep(0.3)
        waited = await memory_of(claims)
        assert waited.level == UNSETTLED
        claims.raise_to(waited, SETTLED)
        assert (await memory_of(claims)).level == UNSETTLED  # one that asked the store before it was stored
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


# ── what it costs, and a Redis that hangs


async def test_all_who_wait_together_share_one_round_trip(redis_url: str, redis: Redis) -> None:
    async with proxy_to(redis_url) as between, connect(between.url(redis_url)) as client, claiming(client) as claims:
        await claim(claims, "warm")
        between.hold()
        first = asyncio.create_task(begin(claims, "first"))
        await eventually(lambda: claims._calling.locked())
        others = [asyncio.create_task(begin(claims, f"{number}")) for number in range(50)]
        # The call that is held may be the first's, or one that only looks; then the first waits with the others.
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
        assert [memory for _, memory in begun] == [NO_MEMORY, NO_MEMORY]
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
