"""Caches products in Redis: fenced fill, fenced bust. Redis is never the authority for anything.

`product:{id}` is a hash: `body` holds the JSON that GET /products/{id} answers, `version` the row's version, and
`read_ms` when it was read from PostgreSQL, by Redis's clock. Every copy counts its age from there, so the age is
bounded once, and not by each cache on the way (P7).

A bust deletes the body and leaves the version behind as a fence. So a reader that read its row before the bust cannot
fill the old value late: its version is below the fence.

A product's bust also drops the pages of its orders, see order_list_cache. What changes one mostly changes the other, so
both are busted in one round trip, and deferred together.
"""

import asyncio
import re
import secrets
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple, cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from pipeline.cache import order_list_cache
from pipeline.cache.redis_link import describe, redis_breaker
from pipeline.process import metrics
from pipeline.process.breaker import PROBE_EVERY_S
from pipeline.process.health import Health

log = structlog.get_logger()

# The only bound after a lost bust (Redis away, its memory emptied): the TTL of "never older than the TTL" in P7.
TTL_S = 60
# The fence must outlive the slowest reader that holds a row from before the bust. Reads have a deadline of seconds. A
# fill replaces the fence and lives shorter, but still far longer than that.
_FENCE_S = 300
# Busts deferred during an outage, 100 bytes each. The TTL covers what no longer fits.
_MAX_DEFERRED = 10_000

# Another program's value under our key counts as missing, and is deleted.
_VERSION_AT = """
local function version_at(key)
  local text = redis.pcall('HGET', key, 'version') or ''
  if type(text) == 'table' then redis.call('DEL', key) text = '' end
  return #text <= 18 and tonumber(string.match(text, '^%d+$')) or -1
end
"""

_FILL = f"""{_VERSION_AT}
if version_at(KEYS[1]) > tonumber(ARGV[1]) then return 0 end
local time = redis.call('TIME')
local read_ms = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[4]
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'body', ARGV[2], 'read_ms', string.format('%.0f', read_ms))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# One argument: a MessagePack of [[product, version, list, …], lifetime of a fence in seconds]. A pipeline with an EVAL
# for each product cost product_consumer 22 to 26 µs of CPU, if each order of a batch is for another product. That is
# more than all its other work for an order. This costs 2.2 (256 products a batch, three interleaved pairs).
# A body of the bust's own version stays: it was filled after the commit.
_BUST = f"""{_VERSION_AT}
local busts, fence_s = unpack(cmsgpack.unpack(ARGV[1]))
local lists = {{}}
for i = 1, #busts, 3 do
  local key, version = busts[i], busts[i + 1]
  if version_at(key) < tonumber(version) then
    redis.call('HSET', key, 'version', version)
    redis.call('HDEL', key, 'body', 'read_ms')
    redis.call('EXPIRE', key, fence_s)
  end
  lists[#lists + 1] = busts[i + 2]
end
return redis.call('DEL', unpack(lists))
"""
# A value that is no hash is another program's.
_READ_MANY = """
local found, time = {}, redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(cmsgpack.unpack(ARGV[1])) do
  local product = redis.pcall('HMGET', key, 'version', 'body', 'read_ms')
  local read_ms = not product.err and tonumber(product[3] or '')
  found[i] = product.err and {false, false, false} or {product[1], product[2], read_ms and math.floor(now - read_ms)}
end
return found
"""
# Its value stays the same until Redis forgets its data.
_EPOCH_KEY = "cache-epoch"
# Redis serves nothing else meanwhile: 5 ms.
_MAX_BUSTS_AT_ONCE = 1_000

_VERSION = re.compile(rb"[0-9]{1,18}")
_encode = msgspec.msgpack.Encoder().encode


class CachedProduct(NamedTuple):
    version: int
    body: bytes
    age_s: float = TTL_S
    """Seconds since it was read from PostgreSQL. TTL_S, the oldest it can be, if its age was not asked for."""


class ProductCache:
    """Reads, fills and busts. None of them raises for Redis, the network, or another program's values.

    While Redis is away, every read is a miss, and busts are deferred until it is back.
    """

    def __init__(self, redis: Redis, namespace: str = "") -> None:
        """`namespace`: the deployment's. "" in tests that have a Redis of their own."""
        self._redis, self._namespace = redis, namespace
        self._deferred: dict[str, int] = {}
        self._breaker = redis_breaker(redis)
        self._epoch: bytes | None = None

    async def read(self, product_id: str) -> CachedProduct | None:
        """The cached product, or None: not cached, busted, with a deferred bust, or Redis is away."""
        if product_id in self._deferred or not self._breaker.may_try():
            metrics.CACHE_READS.labels("error").inc()
            return None
        try:
            found = await self._redis.hmget(self._key(product_id), "version", "body")
        except (RedisError, OSError) as error:
            if not _is_of_another_kind(error):
                self._breaker.failed(error)
                metrics.CACHE_READS.labels("error").inc()
                return None
            found = [None, None]
        self._breaker.worked()
        product = _product(
            *cast("tuple[bytes | None, bytes | None]", tuple(found))
        )  # bytes, because the client decodes no responses
        metrics.CACHE_READS.labels("miss" if product is None else "hit").inc()
        return product

    async def read_many(self, product_ids: Iterable[str]) -> dict[str, CachedProduct]:
        """Those of the products that are cached, in one round trip. Otherwise as `read`."""
        asked = [it for it in product_ids if it not in self._deferred]
        if not asked or not self._breaker.may_try():
            metrics.CACHE_READS.labels("error").inc(len(asked))
            return {}
        try:
            found = await self._redis.eval(_READ_MANY, 0, _encode([self._key(it) for it in asked]))
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            metrics.CACHE_READS.labels("error").inc(len(asked))
            return {}
        self._breaker.worked()
        products = {id_: it for id_, all_ in zip(asked, found, strict=True) if (it := _product(*all_)) is not None}
        metrics.CACHE_READS.labels("hit").inc(len(products))
        metrics.CACHE_READS.labels("miss").inc(len(asked) - len(products))
        return products

    async def fill(self, product_id: str, version: int, body: bytes, age_s: float = 0.0) -> bool:
        """Store a row that was read at `version`, `age_s` ago. False if a newer version was there, or Redis is away.

        The row expires after the rest of TTL_S, so no reader gets an older one.
        """
        if not self._breaker.may_try():
            metrics.CACHE_FILLS.labels("error").inc()
            return False
        lives = max(1, round((TTL_S - age_s) * 1000)), round(age_s * 1000)
        try:
            stored = await self._redis.eval(_FILL, 1, self._key(product_id), version, body, *lives)
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            metrics.CACHE_FILLS.labels("error").inc()
            return False
        self._breaker.worked(wrote=bool(stored))
        metrics.CACHE_FILLS.labels("stored" if stored else "fenced").inc()
        return bool(stored)

    async def bust_or_defer(self, versions: Iterable[tuple[str, int]]) -> bool:
        """Bust all bodies older than the given (product id, committed version), and those deferred before.

        Takes one round trip a thousand products. False: Redis is away, and the busts wait until the next call, or
        until `bust_deferred`.
        """
        new = 0
        for product_id, version in versions:
            self._defer(product_id, version)
            new += 1
        if await self.bust_deferred():
            return True
        metrics.CACHE_BUSTS.labels("owed").inc(new)
        return False

    async def bust_deferred(self) -> bool:
        """Send the deferred busts. True if none is left. Costs nothing if there were none."""
        if not self._deferred:
            return True
        if not self._breaker.may_try():
            return False
        # Deferred until done: meanwhile a reader of one of these gets no body, rather than an old one.
        sending = dict(self._deferred)
        try:
            await self._bust(sending)
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            return False
        self._breaker.worked(wrote=True)
        for product_id, version in sending.items():
            if self._deferred.get(product_id) == version:
                del self._deferred[product_id]
        return True

    async def watch(self, health: Health, part: str) -> None:
        """Report to `health` every second whether Redis can do the work, writes included.

        Sends deferred busts as soon as it can. Runs until cancelled.
        """
        self._breaker.is_watched = True
        while True:
            try:
                await self._look_at_epoch()
            except (RedisError, OSError) as error:
                self._breaker.failed(error)
                health.down(part, f"Redis: {describe(error)}")
            else:
                self._breaker.worked(wrote=True)
                if await self.bust_deferred():
                    health.up(part)
                else:
                    health.down(part, "Redis: it refuses the deferred busts")
            await asyncio.sleep(PROBE_EVERY_S)

    async def _look_at_epoch(self) -> None:
        """Report when Redis has lost the fences: for a TTL, a late fill may bring back what they would have kept out.

        Nothing else tells an emptied cache from a cold one. A server that takes no writes refuses this one too.
        """
        key = f"{self._namespace}{_EPOCH_KEY}"
        await self._redis.set(key, secrets.token_hex(8), nx=True)
        epoch = cast("bytes | None", await self._redis.get(key))  # the client decodes no responses
        if self._epoch not in (None, epoch):
            metrics.CACHE_LOSSES.inc()
            log.warning("redis has forgotten everything, fences too; a product may be old for a TTL", ttl_s=TTL_S)
        self._epoch = epoch

    async def _bust(self, versions: dict[str, int]) -> None:
        busts = iter(versions.items())
        while some := list(islice(busts, _MAX_BUSTS_AT_ONCE)):
            texts = [text for id_, version in some for text in self._bust_of(id_, version)]
            await self._redis.eval(_BUST, 0, _encode((texts, _FENCE_S)))
            metrics.CACHE_BUSTS.labels("done").inc(len(some))

    def _bust_of(self, product_id: str, version: int) -> tuple[str, str, str]:
        return self._key(product_id), str(version), order_list_cache.key_of(self._namespace, product_id)

    def _key(self, product_id: str) -> str:
        return f"{self._namespace}product:{product_id}"

    def _defer(self, product_id: str, version: int) -> None:
        if len(self._deferred) >= _MAX_DEFERRED and product_id not in self._deferred:
            del self._deferred[next(iter(self._deferred))]
            metrics.CACHE_BUSTS.labels("forgotten").inc()
        self._deferred[product_id] = max(version, self._deferred.get(product_id, 0))


def _product(version: bytes | None, body: bytes | None, age_ms: int | None = None) -> CachedProduct | None:
    """The cached product, or None: busted, or another program's value."""
    if version is None or body is None or not _VERSION.fullmatch(version):
        return None
    return CachedProduct(int(version), body, TTL_S if age_ms is None else max(0, age_ms) / 1000)


def _is_of_another_kind(error: Exception) -> bool:
    """Whether another program has stored another type under this key."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")
