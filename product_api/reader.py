"""Reads one product through the cache."""

import time
from functools import partial

from pipeline.cache.product_cache import CachedProduct, ProductCache
from pipeline.cache.single_flight import SingleFlight
from pipeline.process.shares import Busy
from product_api.products import Products, encode

# Far below the lifetime of the cache's fence. Reads have a deadline, so only a process that was stopped in the middle
# of one fills so late. By then, the fence that should hold its old row back may be gone.
_LATEST_FILL_S = 10.0


class ProductReader:
    """Read-through cache of products (P7). One SELECT at a time for each product prevents a stampede."""

    def __init__(self, cache: ProductCache, products: Products) -> None:
        self._cache, self._products = cache, products
        self._flights: SingleFlight[CachedProduct | None] = SingleFlight()

    async def read(self, product_id: str, client: str) -> CachedProduct | None:
        """The body that GET answers, and its version; None if there is no such product. Raises StoreUnavailable, Busy.

        Concurrent requests for a product share one look-up, in a place of the client that came first. If that client
        has too many in hand, it alone is Busy: each of the others looks with a place of its own.
        """
        cached = await self._cache.read(product_id)
        if cached is not None:
            return cached
        payers: list[str] = []
        look_up = partial(self._look_up, product_id, client, payers)
        try:
            return await self._flights.run(product_id, look_up)
        except Busy:
            if payers:
                raise
        return await self._flights.run(f"{product_id} {client}", look_up)

    async def _look_up(self, product_id: str, client: str, payers: list[str], is_second: bool) -> CachedProduct | None:
        payers.append(client)
        # The look-up before this one has filled the cache, unless it was busted since.
        cached = await self._cache.read(product_id) if is_second else None
        return cached or await self._load(product_id, client)

    async def _load(self, product_id: str, client: str) -> CachedProduct | None:
        began = time.monotonic()
        stored = await self._products.get(product_id, client)
        if stored is None:
            return None  # not cached: a flood of unknown ids must not push products out
        body = encode(stored.product)
        age_s = time.monotonic() - began
        if age_s < _LATEST_FILL_S:
            await self._cache.fill(product_id, stored.version, body, age_s)
        return CachedProduct(stored.version, body)
