"""Caches the first page of a product's orders in Redis, for two seconds at most; every verdict busts it.

`orders-of-product:{product_id}` is a hash: a `lease`, one page for each client, and one for those who see all orders. A
bust is DEL. So a product that nobody lists costs nothing else, and emptying Redis busts everything.

The lease is the fence. A reader that finds no page takes the existing lease, or stores a new, random one. It then reads
PostgreSQL, and fills only if its lease is still there. A bust in between deletes the lease, and no reader can store the
same one again: a late fill is refused, however late it is. (Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013,
section 3.2.1.) A version, as products have, would not do: a product's pages change without its row whenever one of its
orders fails.

The whole key expires two seconds after its lease was stored, which was before any of its pages was read. So no page is
older than that, whatever is lost: a bust, or the process that sends it. The same bound covers orders that
persist_worker stored since, which bust nothing before their verdict.
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

# Requests that wait for a verdict wait for the bust too. A hung Redis is tried once a second, see Breaker.
_BUST_TIMEOUT_S = 0.25

# 96 random bits: no two leases of a product will ever be equal.
_LEASE_BYTES = 12

# Another program's value under our key counts as missing, and is deleted.
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
    """Permission to fill one page, until the next bust."""

    product_id: str
    whose: str
    token: bytes


class OrderListCache:
    """Reads, fills and busts. None of them raises for Redis, the network, or another program's values."""

    def __init__(self, redis: Redis, namespace: str = "") -> None:
        """`namespace`: the deployment's. "" in tests that have a Redis of their own."""
        self._redis, self._namespace = redis, namespace
        self._breaker = redis_breaker(redis)

    async def read(self, product_id: str, whose: str) -> bytes | Lease | None:
        """The page, or a lease to fill it; None: Redis is away. `whose`: the owner of the orders, "" for all."""
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
        """Store a page that was read under `lease`. False if the lease is gone, or Redis is away."""
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
        """Drop all pages and leases of these products. False: Redis is away, and the pages expire by age."""
        keys = [self._key(product_id) for product_id in product_ids]
        if not keys:
            return True
        if not self._breaker.may_try():
            return False
        try:
            async with asyncio.timeout(_BUST_TIMEOUT_S):
                await self._redis.delete(*keys)
        except TimeoutError:  # our own timeout, shorter than the client's
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
    """The hash field of a page. It is never "lease", whatever the client's name."""
    return f"page:{whose}"
