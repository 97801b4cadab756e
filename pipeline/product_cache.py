"""The cache of products in Redis: fenced fill, fenced bust. Redis is never the authority for anything.

`product:{id}` is a hash: `body` holds the JSON that GET /products/{id} answers, `version` the row's version. A bust
deletes the body and leaves the version behind as a fence. So a reader that took its row before the bust and is slow to
fill cannot put the old value back: its version is below the fence.

With a product go the pages of its orders, see order_list_cache: what changes the one mostly changes the other, so both
are busted in one round trip, and owed together.
"""

import asyncio
import re
from collections.abc import Iterable
from typing import NamedTuple, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from pipeline import metrics, order_list_cache
from pipeline.breaker import PROBE_EVERY_S
from pipeline.health import Health
from pipeline.redis_link import redis_breaker

# A lost bust (Redis away, its memory emptied) is healed by this and nothing else: the T of "never older than the TTL"
# in P7.
TTL_S = 60
# The fence has to outlive the slowest reader: one that holds a row it read before the bust. Reads have a deadline of
# seconds. A fill takes the fence's place and lives shorter, but still far longer than that.
_FENCE_S = 300
# Busts that are owed for an outage. 100 bytes each; what no longer fits is left to the TTL.
_MAX_OWED = 10_000

# What somebody else has put at our key is as good as nothing, and makes way.
_VERSION_THERE = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local text = redis.call('HGET', KEYS[1], 'version') or ''
local there = #text <= 18 and tonumber(string.match(text, '^%d+$')) or -1
"""

_FILL = f"""{_VERSION_THERE}
if there > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'body', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""

# A body of the same version is what this bust makes way for: it was filled after the commit, so it stays.
_BUST = f"""{_VERSION_THERE}
if there < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'version', ARGV[1])
  redis.call('HDEL', KEYS[1], 'body')
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  return 1
end
return 0
"""

_VERSION = re.compile(rb"[0-9]{1,18}")


class CachedProduct(NamedTuple):
    version: int
    body: bytes


class ProductCache:
    """Reads, fills and busts, none of which raises for what Redis or the network does, or for what others put there.

    A Redis that is away is a miss for readers, and busts are owed to it until it is back.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._owed: dict[str, int] = {}
        self._breaker = redis_breaker()

    async def read(self, product_id: str) -> CachedProduct | None:
        """The product as it is cached, or None: not there, busted, owed a bust, or Redis is away."""
        if product_id in self._owed or not self._breaker.may_try():
            metrics.CACHE_READS.labels("error").inc()
            return None
        try:
            found = await self._redis.hmget(_key(product_id), "version", "body")
        except ResponseError:  # no hash: not ours, and of this product only
            found = [None, None]
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            metrics.CACHE_READS.labels("error").inc()
            return None
        self._breaker.worked()
        product = _product(*cast("list[bytes | None]", found))  # bytes, because the client decodes no responses
        metrics.CACHE_READS.labels("miss" if product is None else "hit").inc()
        return product

    async def fill(self, product_id: str, version: int, body: bytes) -> bool:
        """Put a row that was read at `version`. False if a newer version has been there, or Redis is away."""
        if not self._breaker.may_try():
            metrics.CACHE_FILLS.labels("error").inc()
            return False
        try:
            stored = await self._redis.eval(_FILL, 1, _key(product_id), version, body, TTL_S)
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            metrics.CACHE_FILLS.labels("error").inc()
            return False
        self._breaker.worked()
        metrics.CACHE_FILLS.labels("stored" if stored else "fenced").inc()
        return bool(stored)

    async def bust_or_owe(self, versions: Iterable[tuple[str, int]]) -> bool:
        """Forget all bodies older than the (product id, committed version) given, and those owed from before.

        One round trip. False: Redis is away, and the busts are owed. The next call makes up for them, or `pay_owed`.
        """
        new = 0
        for product_id, version in versions:
            self._owe(product_id, version)
            new += 1
        if await self.pay_owed():
            return True
        metrics.CACHE_BUSTS.labels("owed").inc(new)
        return False

    async def pay_owed(self) -> bool:
        """Make up for the busts that are owed. True if none is left. Costs nothing if there were none."""
        if not self._owed:
            return True
        if not self._breaker.may_try():
            return False
        # Owed until done: whoever reads one of these meanwhile gets no body, rather than an old one.
        paying = dict(self._owed)
        try:
            await self._bust(paying)
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            return False
        self._breaker.worked()
        for product_id, version in paying.items():
            if self._owed.get(product_id) == version:
                del self._owed[product_id]
        return True

    async def watch(self, health: Health, part: str) -> None:
        """Tell `health` every second whether Redis is there, and pay what is owed as soon as it is. Until cancelled."""
        while True:
            try:
                await self._redis.ping()
            except (RedisError, OSError) as error:
                self._breaker.failed(error)
                health.down(part, f"Redis: {type(error).__name__}: {error}")
            else:
                self._breaker.worked()
                health.up(part)
                await self.pay_owed()
            await asyncio.sleep(PROBE_EVERY_S)

    async def _bust(self, versions: dict[str, int]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for product_id, version in versions.items():
                pipe.eval(_BUST, 1, _key(product_id), version, _FENCE_S)
            pipe.delete(*map(order_list_cache.key_of, versions))
            await pipe.execute()
        metrics.CACHE_BUSTS.labels("done").inc(len(versions))

    def _owe(self, product_id: str, version: int) -> None:
        if len(self._owed) >= _MAX_OWED and product_id not in self._owed:
            del self._owed[next(iter(self._owed))]
            metrics.CACHE_BUSTS.labels("forgotten").inc()
        self._owed[product_id] = max(version, self._owed.get(product_id, 0))


def _product(version: bytes | None, body: bytes | None) -> CachedProduct | None:
    """None for what is busted, and for what is not ours."""
    if version is None or body is None or not _VERSION.fullmatch(version):
        return None
    return CachedProduct(int(version), body)


def _key(product_id: str) -> str:
    return f"product:{product_id}"
