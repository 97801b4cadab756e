"""What a process remembers of claims is bounded, whatever Redis does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisAway

from ingest_api.idempotency import held_claims
from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.records import Claim
from tests.support.time.conditions import eventually

BULK = "p" * 31_000


class _Redis:
    """Answers as the script does, says that it forgot as often as told, and keeps what it was asked to settle."""

    def __init__(self, *, evicts: bool = False, forgets: bool = False) -> None:
        self.evicts, self.forgets, self.is_away = evicts, forgets, False
        self.calls = 0
        self.settled: list[list[list[str]]] = []

    async def eval(self, script: str, keys: int, request: bytes) -> list[Any]:
        await asyncio.sleep(0.001)
        if self.is_away:
            raise RedisAway("away")
        self.calls += 1
        flat = msgspec.msgpack.decode(request)[1]
        self.settled.append([flat[at : at + 7] for at in range(0, len(flat), 7)])
        evicted = self.calls if self.evicts else 0
        began = 1_000 + (self.calls if self.evicts or self.forgets else 0)
        gap = began if self.forgets else 1_000
        return [b"run", b"%d" % evicted, b"%d" % began, 0, b"%d" % (5_000 + self.calls), b"%d" % gap]


def _claims(redis: _Redis) -> Claims:
    return Claims(redis, "", remember_s=60, in_flight_s=8, max_waiting=20_000, max_bytes_per_client=2**20)  # type: ignore[arg-type]


def _answer(claims: Claims, number: int, priced: str = "p") -> None:
    claims.remember(Claim(f"{number}", "0" * 32, "o" * 16, priced, client="c"), priced)


@asynccontextmanager
async def _running(claims: Claims) -> AsyncIterator[None]:
    running = asyncio.create_task(claims.run())
    try:
        yield
    finally:
        running.cancel()


async def _calls(redis: _Redis, more: int) -> None:
    enough = redis.calls + more
    await eventually(lambda: redis.calls >= enough)


async def test_p8_a_redis_that_evicts_has_nothing_put_back_and_no_process_grows() -> None:
    redis = _Redis(evicts=True)
    claims = _claims(redis)
    for number in range(2_000):
        _answer(claims, number)
    await claims.drain()
    async with _running(claims):
        for number in range(2_000, 2_020):
            _answer(claims, number)
            await _calls(redis, 1)
    assert sum(len(it) for it in redis.settled) == 2_020


async def test_p8_a_redis_that_always_forgets_costs_no_memory_and_one_small_call_at_a_time() -> None:
    redis = _Redis(forgets=True)
    claims = _claims(redis)
    for number in range(5_000):
        _answer(claims, number)
    await claims.drain()
    async with _running(claims):
        await _calls(redis, 20)
    assert claims._held.settling == 0
    assert claims._held.restoring <= 5_000
    assert max(len(it) for it in redis.settled) <= 1_000


async def test_p5_what_is_put_back_begins_with_the_latest_and_outlives_a_redis_that_fails() -> None:
    redis = _Redis()
    claims = _claims(redis)
    for number in range(3_000):
        _answer(claims, number)
    await claims.drain()
    del redis.settled[:]
    async with _running(claims):
        redis.forgets = True
        await _calls(redis, 1)
        redis.forgets = False
        redis.is_away = True
        await asyncio.sleep(0.1)
        redis.is_away = False
        await eventually(lambda: len({it[0] for call in redis.settled for it in call}) == 3_000)
    assert next(it[0] for call in redis.settled for it in call) == "2999"


async def test_p5_what_could_not_be_settled_is_settled_later() -> None:
    redis = _Redis()
    claims = _claims(redis)
    async with _running(claims):
        await _calls(redis, 1)
        redis.is_away = True
        _answer(claims, 7)
        await asyncio.sleep(0.1)
        redis.is_away = False
        await eventually(lambda: any(it[0] == "7" for call in redis.settled for it in call))


async def test_p8_claims_of_bulk_requests_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_claims, "MAX_HELD_BYTES", 10 * 2**20)
    redis = _Redis()
    claims = _claims(redis)
    for number in range(1_000):
        _answer(claims, number, BULK)
    assert 200 < len(claims._held) < 400
    assert claims._held.settling_bytes < held_claims.MAX_SETTLING_BYTES + 2 * len(BULK)
    await claims.drain()
    assert max(sum(len(it[5]) for it in call) for call in redis.settled) < 2**20


async def test_p8_what_is_let_go_is_no_longer_counted() -> None:
    claims = _claims(_Redis())
    for number in range(30):
        claim = Claim(f"{number % 3}", "0" * 32, "o" * 16, BULK, client="c")
        claims.remember(claim, BULK)
        claims.give_up(claim, may_be_accepted=False, is_sure=True)
    assert claims._held.held_bytes == 0


async def test_a_look_that_is_cancelled_leaves_no_request_without_an_answer() -> None:
    """As a broker connection that is given up cancels it. The call that it made carries the requests of others."""
    redis = _Redis()
    claims = _claims(redis)
    begun = asyncio.create_task(claims.begin("name", ["0" * 32], "p", "c"))
    await asyncio.sleep(0)  # it waits for the next call
    looking = asyncio.create_task(claims.look())
    for _ in range(2):  # turns of the loop: the call has begun, and Redis has not answered
        await asyncio.sleep(0)
    looking.cancel()
    async with asyncio.timeout(2):
        claim, _ = await begun
    assert isinstance(claim, Claim)
    assert redis.calls == 1
