"""Orders with an Idempotency-Key, and their records in Redis."""

import httpx
from redis.asyncio import Redis

from tests.support.services.ingest import Ingest

KEY = "01a20267-97ad-7199-a6a6-540000cf26ec"


async def keyed(ingest: Ingest, product_id: str, quantity: int = 1, key: str = KEY) -> httpx.Response:
    return await ingest.order(product_id, quantity, **{"Idempotency-Key": key})


async def ttl_s_above(redis: Redis, key: str, seconds: int) -> int | None:
    """The value's remaining TTL if it is above `seconds`, else None."""
    ttl = int(await redis.ttl(key))
    return ttl if ttl > seconds else None
