"""Claims keys in a real Redis, as ingest_api does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.records import Claim, KeyConflict, Replay

ORDER, OLD, OTHER = "f" * 32, "e" * 32, "0" * 32
PRICED, PRICED_LATER = "10 euros", "25 euros"


@asynccontextmanager
async def claiming(
    redis: Redis, namespace: str = "one:", in_flight_s: float = 8, max_bytes: int = 2**20
) -> AsyncIterator[Claims]:
    """Claims that run until the end of the block."""
    limits = {"remember_s": 60, "in_flight_s": in_flight_s, "max_waiting": 100, "max_bytes_per_client": max_bytes}
    claims = Claims(redis, namespace, **limits)  # type: ignore[arg-type]
    running = asyncio.create_task(claims.run())
    try:
        yield claims
    finally:
        running.cancel()


async def begin(
    claims: Claims, name: str = "a", order: str = ORDER, priced: str = PRICED, client: str = ""
) -> Claim | KeyConflict | Replay | bytes:
    return (await claims.begin(name, [order], priced, client))[0]


async def claim(claims: Claims, name: str = "a", order: str = ORDER, priced: str = PRICED) -> Claim:
    begun = await begin(claims, name, order, priced)
    assert isinstance(begun, Claim)
    return begun


async def answered(claims: Claims, name: str) -> None:
    claims.remember(await claim(claims, name), PRICED)
    await claims.drain()
