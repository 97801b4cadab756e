"""Background tasks end with their process, whatever library they wait in."""

import asyncio

import pytest
import redis.asyncio

from pipeline.process import lifecycle

_ROUNDS = 30
_ASKING = 10


async def test_p9_who_asks_redis_all_the_time_is_ended(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py waits in `asyncio.wait_for`, which may forget a cancellation before Python 3.12: each round takes its
    tasks at other moments.
    """
    monkeypatch.setattr(lifecycle, "_CANCEL_AGAIN_S", 0.05)

    async with redis.asyncio.Redis.from_url(redis_url) as client:

        async def ask() -> None:
            while True:
                await client.ping()
                asked.release()

        for _ in range(_ROUNDS):
            asked = asyncio.Semaphore(0)
            async with asyncio.timeout(10), lifecycle.background(*(ask() for _ in range(_ASKING))):
                for _ in range(_ASKING):
                    await asked.acquire()
