"""Reading one product through the cache."""

import time
from functools import partial

from pipeline.product_cache import CachedProduct, ProductCache
from pipeline.single_flight import SingleFlight
from product_api.products import Products, encode

# Far below what the cache's fence lives. Reads have a deadline, so only a process that was stopped in the middle of one
# comes here so late; by then the fence that should hold its old row back may be gone.
_LATEST_FILL_S = 10.0


class ProductReader:
    """Read-through, with one SELECT for each product in flight (P7)."""

    def __init__(self, cache: ProductCache, products: Products) -> None:
        self._cache, self._products = cache, products
        self._flights: SingleFlight[CachedProduct | None] = SingleFlight()

    async def read(self, product_id: str) -> CachedProduct | None:
        """The body that GET answers, and its version; None if there is no such product. Raises StoreUnavailable."""
        cached = await self._cache.read(product_id)
        return cached or await self._flights.run(product_id, partial(self._look_up, product_id))

    async def _look_up(self, product_id: str, is_second: bool) -> CachedProduct | None:
        # Whoever went before has filled the cache, unless it was busted meanwhile.
        cached = await self._cache.read(product_id) if is_second else None
        return cached or await self._load(product_id)

    async def _load(self, product_id: str) -> CachedProduct | None:
        began = time.monotonic()
        stored = await self._products.get(product_id)
        if stored is None:
            return None  # not cached: a flood of unknown ids must not push products out
        body = encode(stored.product)
        age_s = time.monotonic() - began
        if age_s < _LATEST_FILL_S:
            await self._cache.fill(product_id, stored.version, body, age_s)
        return CachedProduct(stored.version, body)
