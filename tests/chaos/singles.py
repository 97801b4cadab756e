"""Products that are bought once: what the cache says of them stays wrong if one bust is lost.

A product that is bought 25 times a second is busted 25 times a second, and the next bust heals what one has missed. So
there are products that somebody has read, that one order buys, and that nobody reads or buys again. 25 of them are
bought each second, so the batch that a fault hits has some. And their bodies do not expire: no TTL heals them either.
"""

import asyncio
import contextlib
import random
import uuid
from collections import deque
from collections.abc import Iterator
from decimal import Decimal

import asyncpg
import httpx
import msgspec
from redis.exceptions import RedisError

from pipeline.cache.redis_link import connect
from tests.chaos.notes import PRICE, Wanted
from tests.support.data.redis_names import NAMESPACE
from tests.support.services.deployment import Deployment
from tests.support.services.workers import connected

_PER_S = 25
_QTY = 1_000
_MOST = 9
# 80 s worth of them; more are made when they run short.
_AT_ONCE = 2_000
_AWAY = (RedisError, OSError, httpx.TransportError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

_MAKE = """
    WITH made AS (
        INSERT INTO products (id, name, price, qty) SELECT id, 'single', $2, $3 FROM unnest($1::uuid[]) AS id
        RETURNING id
    )
    INSERT INTO stock_adjustments (product_id, delta, reason) SELECT id, $3, 'creation' FROM made
"""
_LEFT = "SELECT id::text, qty FROM products WHERE id = ANY($1::uuid[])"


class Singles:
    def __init__(self, deployment: Deployment, database_url: str, redis_url: str, rng: random.Random) -> None:
        """`database_url`, `redis_url`: the servers themselves, whatever the services go through."""
        self._deployment, self._database_url, self._redis_url, self._rng = deployment, database_url, redis_url, rng
        self.per_s: float = _PER_S
        self._unread: deque[str] = deque()
        self._cached: deque[str] = deque()
        self.bought: list[str] = []
        """Those that were in the cache when they were to be ordered."""
        self._first = 0

    async def run(self) -> None:
        """Put one after the other into the cache, through product_api, until cancelled. What is away is waited for."""
        async with self._deployment.client("product_api") as product_api, connect(self._redis_url) as redis:
            while True:
                with contextlib.suppress(*_AWAY):
                    if not self._unread:
                        await self._make()
                    product_id = self._unread.popleft()
                    await product_api.get(f"/products/{product_id}")
                    if await redis.persist(_key(product_id)) and await redis.hexists(_key(product_id), "body"):
                        self._cached.append(product_id)
                await asyncio.sleep(1 / self.per_s)  # a pace, and nothing that anybody waits for

    def among(self, orders: Iterator[Wanted]) -> Iterator[Wanted]:
        """These orders, and one for each product that is in the cache. All of those have a key, and may be retried."""
        for wanted in orders:
            if self._cached:
                self.bought.append(self._cached.popleft())
                key = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
                yield Wanted(self.bought[-1], self._rng.randint(1, _MOST), key)
            yield wanted

    def begin(self) -> None:
        """Look at those alone that are bought from now on: the fault is about to come."""
        self._first = len(self.bought)

    async def look(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many are left of those that were sold, as the cache says, where it says anything; and the database.

        Only of those that Redis still knows, by their fence if their body is gone: what it has forgotten in between
        could not be wrong.
        """
        async with connected(self._database_url) as connection, connect(self._redis_url) as redis:
            rows = await connection.fetch(_LEFT, self.bought[self._first :])
            sold = {row[0]: row[1] for row in rows if row[1] < _QTY}
            asked = redis.pipeline(transaction=False)
            for product_id in sold:
                asked.hmget(_key(product_id), "version", "body")
            found = dict(zip(sold, await asked.execute() if sold else [], strict=True))
        cached = {id_: msgspec.json.decode(body)["qty"] for id_, (_, body) in found.items() if body}
        return cached, {id_: qty for id_, qty in sold.items() if found[id_][0]}

    async def _make(self) -> None:
        ids = [str(uuid.uuid4()) for _ in range(_AT_ONCE)]
        async with asyncio.timeout(5), connected(self._database_url) as connection:
            await connection.execute(_MAKE, ids, Decimal(PRICE), _QTY)
        self._unread += ids


def _key(product_id: str) -> str:
    return f"{NAMESPACE}product:{product_id}"
