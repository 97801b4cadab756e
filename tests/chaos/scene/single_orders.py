"""Products that are bought once: if their one bust is lost, the cache stays wrong.

A product that is bought 25 times a second is also busted 25 times a second, so the next bust hides a lost one. These
products are read once, bought by one order, and never read or bought again. 25 of them are bought each second, so the
batch that a fault hits has some. Their cached bodies never expire, so no TTL hides a lost bust either.
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
from tests.chaos.scene.attempts import PRICE, WantedOrder
from tests.support.data.redis_names import NAMESPACE
from tests.support.services.deployment import Deployment
from tests.support.services.workers import connected

_PER_S = 25
_QTY = 1_000
_MOST = 9
# Enough for 80 s; more are created when they run short.
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


class SingleOrders:
    def __init__(self, deployment: Deployment, database_url: str, redis_url: str, rng: random.Random) -> None:
        """`database_url`, `redis_url`: of the servers themselves, not of a proxy."""
        self._deployment, self._database_url, self._redis_url, self._rng = deployment, database_url, redis_url, rng
        self.per_s: float = _PER_S
        self._unread: deque[str] = deque()
        self._cached: deque[str] = deque()
        self.bought: list[str] = []
        """Products that were cached when they were ordered."""
        self._first = 0

    async def run(self) -> None:
        """Cache one product after the other through product_api, until cancelled. Retries while anything is away."""
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

    def among(self, orders: Iterator[WantedOrder]) -> Iterator[WantedOrder]:
        """Mix these orders with one for each cached product. All of the latter have a key, so they may be retried."""
        for wanted in orders:
            if self._cached:
                self.bought.append(self._cached.popleft())
                key = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
                yield WantedOrder(self.bought[-1], self._rng.randint(1, _MOST), key)
            yield wanted

    def begin(self) -> None:
        """Check only products bought from now on: the fault comes next."""
        self._first = len(self.bought)

    async def look(self) -> tuple[dict[str, int], dict[str, int]]:
        """The stock of sold products: in the cache, if it holds them, and in the database.

        Only products that Redis still knows, by their fence if the body is gone: forgotten ones cannot be wrong.
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
