"""The product catalogue of ingest_api: prices, and what is sold out. It is in process, so an order costs no I/O.

A miss is filled from Redis, then PostgreSQL. Product events keep the catalogue fresh. They overtake each other and get
lost: `version` orders them, and a TTL makes up for the lost ones. Everything here is a hint except the price, which is
fixed at acceptance; product_consumer gives the binding verdict on stock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple, TypeVar

from database.sessions import StoreUnavailable
from ingest_api.rounds import Round, Rounds
from ingest_api.settings import IngestSettings
from pipeline.contract.product_events import ProductEvent
from pipeline.process import metrics
from pipeline.process.shares import Busy, Shares


@dataclass(frozen=True, slots=True)
class Product:
    """A product as ingest_api knows it. `price` None: there is no such product, or it was deleted."""

    version: int
    price: Decimal | None
    sold_out: bool
    fresh_until: float
    """Loop time until which this is used without asking again."""
    usable_until: float
    """Loop time until which this is used when no store can be asked."""


# How long an old price sells before a store that gave no answer is asked for it again.
_ASK_AGAIN_S = 1.0
# Ids in one question: 500 take Redis and PostgreSQL some 5 ms together.
_IDS_AT_ONCE = 500

_NO_PRODUCT = Product(0, None, sold_out=False, fresh_until=0.0, usable_until=0.0)

V = TypeVar("V")


class Found(NamedTuple):
    """A product as Redis or PostgreSQL has it."""

    state: ProductEvent
    age_s: float
    """Since it was read from PostgreSQL, at the most."""


Load = Callable[[Mapping[str, int]], Awaitable[Mapping[str, Found | None]]]
"""Looks products up in the stores: the state of each, None if there is no such product. Products that could not be
looked up are missing.

Takes the known version of each (0: none), so that a cache which is behind it is not believed. PostgreSQL always is.
"""


class Catalogue:
    """A bounded map from product id to Product. Missing products are looked up, many ids in one question."""

    def __init__(self, settings: IngestSettings, load: Load) -> None:
        self._settings, self._load = settings, load
        self._now = asyncio.get_running_loop().time
        self._products: dict[str, Product] = {}
        self._unknown: dict[str, float] = {}
        self._rounds = Rounds(
            self._ask,
            Shares("look-ups", settings.max_lookups),
            ids_at_once=_IDS_AT_ONCE,
            in_flight=settings.database_price_connections,
            timeout_s=settings.database_timeout_s,
            joins_begun=True,
        )

    def get(self, product_id: str) -> Product | None:
        """The product if known and fresh, without I/O. `product_id` as the client wrote it: one found is canonical."""
        product = self._products.get(product_id)
        return product if product is not None and product.fresh_until > self._now() else None

    async def find(self, product_id: str, client: str) -> Product:
        """The product, looked up if need be. `product_id` canonical. Raises StoreUnavailable, Busy."""
        found = await self.find_all([product_id], client)
        if product_id not in found:
            raise StoreUnavailable("no price in time")
        return found[product_id]

    async def find_all(self, product_ids: Collection[str], client: str) -> dict[str, Product]:
        """The products by id; those that could not be looked up are missing. Raises Busy."""
        found, missing = {}, []
        for product_id in product_ids:
            if (product := self.get(product_id) or self._known_missing(product_id)) is not None:
                found[product_id] = product
            else:
                missing.append(product_id)
        return found | await self._look_up(missing, client) if missing else found

    def apply(self, event: ProductEvent) -> None:
        """Apply an event, if its product is held or being looked up, and the event is newer than what is held."""
        self._unknown.pop(event.id, None)
        held = self._products.get(event.id)
        is_newer = event.id in self._rounds if held is None else event.version > held.version
        if is_newer:
            self._hold(event.id, self._from_event(event))

    def distrust(self) -> None:
        """Make everything stale, because events may have been missed: the next use asks again."""
        self._unknown.clear()
        now = self._now()
        for product_id, product in self._products.items():
            if product.fresh_until > now:
                self._products[product_id] = replace(product, fresh_until=now)

    async def _look_up(self, product_ids: Sequence[str], client: str) -> dict[str, Product]:
        old = {id_: product for id_ in product_ids if (product := self._usable(id_)) is not None}
        rounds = []
        try:
            rounds = self._rounds.join(product_ids, client)
            if len(old) < len(product_ids):
                await self._rounds.end_of(rounds)
            else:
                await self._wait_a_moment(rounds)
        except Busy:
            if len(old) < len(product_ids):
                raise
        answers = [it.done.result() for it in rounds if it.done.done()]
        found = {id_: answer[id_] for answer in answers for id_ in product_ids if id_ in answer}
        for product_id in product_ids:
            if (heard := self.get(product_id)) is not None:  # from an event meanwhile, or as it was found
                found[product_id] = heard
        metrics.CATALOGUE_LOOKUPS.labels("stale").inc(len(old.keys() - found.keys()))
        return old | found

    async def _wait_a_moment(self, rounds: Sequence[Round[Product]]) -> None:
        """Wait for the answer of a healthy store. Do not wait for one that has kept others waiting for longer: the
        question goes on, and the old price sells.
        """
        patience_s = self._settings.catalogue_patience_s - self._rounds.asking_s
        if patience_s > 0:
            await asyncio.wait([it.done for it in rounds], timeout=patience_s)

    async def _ask(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """Ask one question, and hold its answer. Products that could not be looked up are missing."""
        known = {product_id: self._version_of(product_id) for product_id in product_ids}
        states = await self._load(known)
        for product_id in known.keys() - states.keys():
            self._use_for_longer(product_id)
        return {id_: self._take_in(id_, known[id_], found) for id_, found in states.items()}

    def _take_in(self, product_id: str, known: int, found: Found | None) -> Product:
        # The answer overrules what was held before: a store restored from a backup has gone back in versions, and is
        # right all the same. Only an event that came meanwhile may know better.
        held = self._products.get(product_id)
        if held is not None and held.version > max(known, found.state.version if found else 0):
            return held
        return self._hold(product_id, self._from_event(*found)) if found else self._hold_unknown(product_id)

    def _known_missing(self, product_id: str) -> Product | None:
        """The answer for an id that was not a product a moment ago."""
        if self._unknown.get(product_id, 0.0) <= self._now():
            return None
        metrics.CATALOGUE_LOOKUPS.labels("unknown").inc()
        return _NO_PRODUCT

    def _version_of(self, product_id: str) -> int:
        held = self._products.get(product_id)
        return held.version if held else 0

    def _usable(self, product_id: str) -> Product | None:
        """The held product, fresh or old, unless it is too old."""
        held = self._products.get(product_id)
        return held if held is not None and held.usable_until > self._now() else None

    def _use_for_longer(self, product_id: str) -> None:
        """No store could be asked: use what is held for a while, so that not every order asks again."""
        held, now = self._usable(product_id), self._now()
        if held is not None and held.fresh_until < now + _ASK_AGAIN_S:
            self._hold(product_id, replace(held, fresh_until=min(held.usable_until, now + _ASK_AGAIN_S)))

    def _from_event(self, event: ProductEvent, age_s: float = 0.0) -> Product:
        return Product(event.version, None if event.deleted else event.price, event.qty == 0, *self._bounds(age_s))

    def _bounds(self, age_s: float) -> tuple[float, float]:
        """`fresh_until` and `usable_until` of a state that is `age_s` old. Nothing else bounds the age of a price."""
        fresh_until = self._now() - age_s + self._settings.catalogue_ttl_s
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
        return _NO_PRODUCT


def _make_room(held: dict[str, V], key: str, limit: int) -> None:
    """Drop the entry that has been held longest. Not an LRU, which would write on every read of the hot path."""
    if len(held) >= limit and key not in held:
        del held[next(iter(held))]
