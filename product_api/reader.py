"""Reading one product through the cache."""

import asyncio
import time

from pipeline.product_cache import CachedProduct, ProductCache
from product_api.products import Products, encode

# Far below what the cache's fence lives. Reads have a deadline, so only a process that was stopped in the middle of one
# comes here so late; by then the fence that should hold its old row back may be gone.
_LATEST_FILL_S = 10.0


class ProductReader:
    """Read-through, with one SELECT for each product in flight.

    A stampede on a product that was just busted is two SELECTs at the most: one that had begun, and one that all who
    came since share. They must not share the first: its row may be older than a bust that they have seen (P7).
    """

    def __init__(self, cache: ProductCache, products: Products) -> None:
        self._cache, self._products = cache, products
        # By product id: the lookup that holds the turn, and the one that has not begun.
        self._begun: dict[str, asyncio.Task[CachedProduct | None]] = {}
        self._waiting: dict[str, asyncio.Task[CachedProduct | None]] = {}

    async def read(self, product_id: str) -> CachedProduct | None:
        """The body that GET answers, and its version; None if there is no such product. Raises StoreUnavailable."""
        cached = await self._cache.read(product_id)
        if cached is not None:
            return cached
        lookup = self._waiting.get(product_id)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(product_id, self._begun.get(product_id)))
            lookup.add_done_callback(_retrieved)
            self._waiting[product_id] = lookup
        # Shielded: the others who wait for it have not been cancelled.
        return await asyncio.shield(lookup)

    async def _look_up(
        self, product_id: str, previous: "asyncio.Task[CachedProduct | None] | None"
    ) -> CachedProduct | None:
        if previous is not None:
            await asyncio.wait({previous})
        self._begun[product_id] = self._waiting.pop(product_id)
        try:
            # Whoever went before has filled the cache, unless it was busted meanwhile.
            cached = await self._cache.read(product_id) if previous is not None else None
            return cached or await self._load(product_id)
        finally:
            if self._begun.get(product_id) is asyncio.current_task():
                del self._begun[product_id]

    async def _load(self, product_id: str) -> CachedProduct | None:
        began = time.monotonic()
        stored = await self._products.get(product_id)
        if stored is None:
            return None  # not cached: a flood of unknown ids must not push products out
        body = encode(stored.product)
        if time.monotonic() - began < _LATEST_FILL_S:
            await self._cache.fill(product_id, stored.version, body)
        return CachedProduct(stored.version, body)


def _retrieved(lookup: "asyncio.Task[CachedProduct | None]") -> None:
    """Its error was for those who waited. If all of them have gone, it is nobody's."""
    if not lookup.cancelled():
        lookup.exception()
