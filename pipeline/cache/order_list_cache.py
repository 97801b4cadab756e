"""The first page of a product's orders, cached in Redis for two seconds at the most, and dropped by every verdict.

`orders-of-product:{product_id}` is a hash: a `lease`, and beside it one page for each who may see different orders. A
bust is DEL. So a product that nobody lists costs nothing but that, and a Redis that was emptied has busted everything.

The lease is the fence. Whoever finds no page takes the lease that is there, or puts down a new, random one; then reads
PostgreSQL; and fills only if that lease is still there. A bust between the two has taken it away, and nobody can put
down the same again: a reader that is slow to fill is refused, however slow it is. (Nishtala et al., "Scaling Memcache
at Facebook", NSDI 2013, section 3.2.1.) A version, as products have, would not do: the pages of a product change
without its row, whenever an order of it fails.

The whole key dies two seconds after its lease was put down, which was before any of its pages was read. So no page is
older than that, whatever is lost: a bust, its process, or the orders that persist_worker stored since, which bust
nothing before their verdict.
"""

import asyncio
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from pipeline.cache.redis_link import redis_breaker
from pipeline.process import metrics

MAX_AGE_S = 2.0

# Whoever waits for a verdict waits for this too. A Redis that hangs is asked once a second, see Breaker.
_BUST_TIMEOUT_S = 0.25

# 96 random bits: that two leases of one product are equal is out of the question.
_LEASE_BYTES = 12

# What somebody else has put at our key is as good as nothing, and makes way.
_READ = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local found = redis.call('HMGET', KEYS[1], 'lease', ARGV[1])
if not found[1] then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'lease', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {ARGV[2], false}
end
return found
"""

_FILL = """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' or redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
"""


class Lease(NamedTuple):
    """Leave to fill one page, until the next bust."""

    product_id: str
    whose: str
    token: bytes


class OrderListCache:
    """Reads, fills and busts, none of which raises for what Redis or the network does, or for what others put there."""

    def __init__(self, redis: Redis, namespace: str = "") -> None:
        """`namespace`: of the deployment. "" in tests that have a Redis of their own."""
        self._redis, self._namespace = redis, namespace
        self._breaker = redis_breaker(redis)

    async def read(self, product_id: str, whose: str) -> bytes | Lease | None:
        """The page, or leave to fill it; None: Redis is away. `whose`: who sees these orders."""
        if not self._breaker.may_try():
            metrics.ORDER_LIST_READS.labels("error").inc()
            return None
        token = secrets.token_bytes(_LEASE_BYTES)
        key, max_age_ms = self._key(product_id), round(MAX_AGE_S * 1000)
        try:
            lease, page = await self._redis.eval(_READ, 1, key, _field(whose), token, max_age_ms)
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            metrics.ORDER_LIST_READS.labels("error").inc()
            return None
        self._breaker.worked(wrote=lease == token)
        metrics.ORDER_LIST_READS.labels("miss" if page is None else "hit").inc()
        return Lease(product_id, whose, lease) if page is None else bytes(page)

    async def fill(self, lease: Lease, page: bytes) -> bool:
        """Put a page that was read under `lease`. False if that is over, or Redis is away."""
        if not self._breaker.may_try():
            return False
        try:
            key = self._key(lease.product_id)
            stored = await self._redis.eval(_FILL, 1, key, lease.token, _field(lease.whose), page)
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            return False
        self._breaker.worked(wrote=bool(stored))
        return bool(stored)

    async def bust(self, product_ids: Iterable[str]) -> bool:
        """Drop all pages of these products, and end their leases. False: Redis is away, and their age will do it."""
        keys = [self._key(product_id) for product_id in product_ids]
        if not keys:
            return True
        if not self._breaker.may_try():
            return False
        try:
            async with asyncio.timeout(_BUST_TIMEOUT_S):
                await self._redis.delete(*keys)
        except TimeoutError:  # of our own patience, which is shorter than that of the others
            return False
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            return False
        self._breaker.worked(wrote=True)
        return True

    def _key(self, product_id: str) -> str:
        return key_of(self._namespace, product_id)


def key_of(namespace: str, product_id: str) -> str:
    return f"{namespace}orders-of-product:{product_id}"


def _field(whose: str) -> str:
    """Never "lease", whatever a client calls itself."""
    return f"page:{whose}"
