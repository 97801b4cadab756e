"""What ingest_api knows of products: price, and whether there is any at all. In process, so that an order costs no I/O.

Filled on a miss from Redis, then PostgreSQL. Kept fresh by product events, which overtake each other and get lost:
`version` orders them, and a TTL makes up for the lost ones. Everything here is a hint except the price, which is fixed
at acceptance; the binding verdict on stock is product_consumer's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar

from database.sessions import StoreUnavailable
from ingest_api.settings import IngestSettings
from pipeline import metrics
from pipeline.product_events import ProductEvent


@dataclass(frozen=True, slots=True)
class Product:
    """A product as the door sees it. `price` None: there is no such product, or it was deleted."""

    version: int
    price: Decimal | None
    sold_out: bool
    fresh_until: float
    """Loop time until which this is used without asking again."""
    usable_until: float
    """Loop time until which this is used when nobody can be asked."""


# How long an old price sells before a store that gave no answer is asked again: each try may cost its whole deadline.
_ASK_AGAIN_S = 1.0

V = TypeVar("V")

Load = Callable[[str, int], Awaitable[ProductEvent | None]]
"""Looks a product up outside: its present state, or None if there is none. Raises StoreUnavailable.

Given the version that is known (0: none), so that a cache which is behind it is not believed. The store itself is.
"""


class Catalogue:
    """A bounded map from product id to Product, with one lookup in flight for each id."""

    def __init__(self, settings: IngestSettings, load: Load) -> None:
        self._settings, self._load = settings, load
        self._now = asyncio.get_running_loop().time
        self._products: dict[str, Product] = {}
        self._unknown: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Task[Product]] = {}

    def get(self, product_id: str) -> Product | None:
        """What is known and fresh, without I/O. `product_id` as the client wrote it: what is found is canonical."""
        product = self._products.get(product_id)
        return product if product is not None and product.fresh_until > self._now() else None

    async def find(self, product_id: str) -> Product:
        """The product, looked up if need be. `product_id` canonical. Raises StoreUnavailable."""
        if (product := self.get(product_id)) is not None:
            return product
        if self._unknown.get(product_id, 0.0) > self._now():
            metrics.CATALOGUE_LOOKUPS.labels("unknown").inc()
            return _no_product(self._now())
        lookup = self._lookups.get(product_id)
        if lookup is None:
            lookup = self._lookups[product_id] = asyncio.create_task(self._look_up(product_id))
            lookup.add_done_callback(lambda _: self._lookups.pop(product_id, None))
        # Shielded: the others who wait for the same lookup have not been cancelled.
        return await asyncio.shield(lookup)

    def apply(self, event: ProductEvent) -> None:
        """Take an event in, if it is about a product that is held or being looked up, and newer than what is held."""
        self._unknown.pop(event.id, None)
        held = self._products.get(event.id)
        is_newer = event.id in self._lookups if held is None else event.version > held.version
        if is_newer:
            self._hold(event.id, self._from_event(event))

    def distrust(self) -> None:
        """Events may have been missed: ask again before the next use of anything."""
        self._unknown.clear()
        now = self._now()
        for product_id, product in self._products.items():
            if product.fresh_until > now:
                self._products[product_id] = replace(product, fresh_until=now)

    async def _look_up(self, product_id: str) -> Product:
        known = self._version_of(product_id)
        try:
            state = await self._load(product_id, known)
        except StoreUnavailable:
            # Fresh again: an event has come meanwhile.
            if (product := self.get(product_id) or self._make_do(product_id)) is None:
                raise
            return product
        # What was held before has had its time: a store that was restored from a backup has gone back in versions, and
        # is right all the same. Only an event that came meanwhile may know better.
        held = self._products.get(product_id)
        if held is not None and held.version > max(known, state.version if state else 0):
            return held
        return self._hold(product_id, self._from_event(state)) if state else self._hold_unknown(product_id)

    def _version_of(self, product_id: str) -> int:
        held = self._products.get(product_id)
        return held.version if held else 0

    def _make_do(self, product_id: str) -> Product | None:
        """What is held although it is old, if it is not too old."""
        held = self._products.get(product_id)
        if held is None or held.usable_until <= self._now():
            return None
        metrics.CATALOGUE_LOOKUPS.labels("stale").inc()
        fresh_until = min(held.usable_until, self._now() + _ASK_AGAIN_S)
        return self._hold(product_id, replace(held, fresh_until=fresh_until))

    def _from_event(self, event: ProductEvent) -> Product:
        return Product(event.version, None if event.deleted else event.price, event.qty == 0, *self._bounds())

    def _bounds(self) -> tuple[float, float]:
        """`fresh_until` and `usable_until` of what is known to be so now."""
        fresh_until = self._now() + self._settings.catalogue_ttl_s
        return fresh_until, fresh_until + self._settings.catalogue_max_stale_s

    def _hold(self, product_id: str, product: Product) -> Product:
        _make_room(self._products, product_id, self._settings.catalogue_max_products)
        self._products[product_id] = product
        metrics.CATALOGUE_SIZE.set(len(self._products))
        return product

    def _hold_unknown(self, product_id: str) -> Product:
        self._products.pop(product_id, None)
        _make_room(self._unknown, product_id, self._settings.catalogue_max_unknown)
        self._unknown[product_id] = self._now() + self._settings.catalogue_unknown_ttl_s
        return _no_product(self._now())


def _no_product(now: float) -> Product:
    return Product(0, None, False, now, now)


def _make_room(held: dict[str, V], key: str, limit: int) -> None:
    """Drop the entry that has been held longest. Not an LRU, which would write on every read of the hot path."""
    if len(held) >= limit and key not in held:
        del held[next(iter(held))]
