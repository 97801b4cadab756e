"""What ingest_api knows of products: price, and whether there is any at all. In process, so that an order costs no I/O.

Filled on a miss from Redis, then PostgreSQL. Kept fresh by product events, which overtake each other and get lost:
`version` orders them, and a TTL makes up for the lost ones. Everything here is a hint except the price, which is fixed
at acceptance; the binding verdict on stock is product_consumer's.
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
    """A product as the door sees it. `price` None: there is no such product, or it was deleted."""

    version: int
    price: Decimal | None
    sold_out: bool
    fresh_until: float
    """Loop time until which this is used without asking again."""
    usable_until: float
    """Loop time until which this is used when nobody can be asked."""


# How long an old price sells before a store that gave no answer is asked for it again.
_ASK_AGAIN_S = 1.0
# Ids in one question: 500 take Redis and PostgreSQL some 5 ms together.
_IDS_AT_ONCE = 500

_NO_PRODUCT = Product(0, None, sold_out=False, fresh_until=0.0, usable_until=0.0)

V = TypeVar("V")


class Found(NamedTuple):
    """What was found outside."""

    state: ProductEvent
    age_s: float
    """Since it was read from PostgreSQL, at the most."""


Load = Callable[[Mapping[str, int]], Awaitable[Mapping[str, Found | None]]]
"""Looks products up outside: the state of each, None if there is no such product; nothing of those that nobody could be
asked about.

Given the version of each that is known (0: none), so that a cache which is behind it is not believed. The store itself
is.
"""


class Catalogue:
    """A bounded map from product id to Product. What is not in it is looked up, many ids in one question."""

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
        """What is known and fresh, without I/O. `product_id` as the client wrote it: what is found is canonical."""
        product = self._products.get(product_id)
        return product if product is not None and product.fresh_until > self._now() else None

    async def find(self, product_id: str, client: str) -> Product:
        """The product, looked up if need be. `product_id` canonical. Raises StoreUnavailable, Busy."""
        found = await self.find_all([product_id], client)
        if product_id not in found:
            raise StoreUnavailable("no price in time")
        return found[product_id]

    async def find_all(self, product_ids: Collection[str], client: str) -> dict[str, Product]:
        """The products, by id, without those that nobody could be asked about. Raises Busy: nothing was asked."""
        found, missing = {}, []
        for product_id in product_ids:
            if (product := self.get(product_id) or self._known_missing(product_id)) is not None:
                found[product_id] = product
            else:
                missing.append(product_id)
        return found | await self._look_up(missing, client) if missing else found

    def apply(self, event: ProductEvent) -> None:
        """Take an event in, if it is about a product that is held or being looked up, and newer than what is held."""
        self._unknown.pop(event.id, None)
        held = self._products.get(event.id)
        is_newer = event.id in self._rounds if held is None else event.version > held.version
        if is_newer:
            self._hold(event.id, self._from_event(event))

    def distrust(self) -> None:
        """Events may have been missed: ask again before the next use of anything."""
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
            if (heard := self.get(product_id)) is not None:  # in an event meanwhile, or as it was found
                found[product_id] = heard
        metrics.CATALOGUE_LOOKUPS.labels("stale").inc(len(old.keys() - found.keys()))
        return old | found

    async def _wait_a_moment(self, rounds: Sequence[Round[Product]]) -> None:
        """For the answer of a store that works. One that has kept others waiting for longer is not waited for at all:
        the question goes on, and the old price sells.
        """
        patience_s = self._settings.catalogue_patience_s - self._rounds.asking_s
        if patience_s > 0:
            await asyncio.wait([it.done for it in rounds], timeout=patience_s)

    async def _ask(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """One question, and what it brings is held. Those that nobody could be asked about are not in the answer."""
        known = {product_id: self._version_of(product_id) for product_id in product_ids}
        states = await self._load(known)
        for product_id in known.keys() - states.keys():
            self._use_for_longer(product_id)
        return {id_: self._take_in(id_, known[id_], found) for id_, found in states.items()}

    def _take_in(self, product_id: str, known: int, found: Found | None) -> Product:
        # What was held before has had its time: a store that was restored from a backup has gone back in versions, and
        # is right all the same. Only an event that came meanwhile may know better.
        held = self._products.get(product_id)
        if held is not None and held.version > max(known, found.state.version if found else 0):
            return held
        return self._hold(product_id, self._from_event(*found)) if found else self._hold_unknown(product_id)

    def _known_missing(self, product_id: str) -> Product | None:
        """What is answered for an id that was no product a moment ago."""
        if self._unknown.get(product_id, 0.0) <= self._now():
            return None
        metrics.CATALOGUE_LOOKUPS.labels("unknown").inc()
        return _NO_PRODUCT

    def _version_of(self, product_id: str) -> int:
        held = self._products.get(product_id)
        return held.version if held else 0

    def _usable(self, product_id: str) -> Product | None:
        """What is held although it is old, if it is not too old."""
        held = self._products.get(product_id)
        return held if held is not None and held.usable_until > self._now() else None

    def _use_for_longer(self, product_id: str) -> None:
        """Nobody could be asked: use what is held for a while, so that not each order asks again."""
        held, now = self._usable(product_id), self._now()
        if held is not None and held.fresh_until < now + _ASK_AGAIN_S:
            self._hold(product_id, replace(held, fresh_until=min(held.usable_until, now + _ASK_AGAIN_S)))

    def _from_event(self, event: ProductEvent, age_s: float = 0.0) -> Product:
        return Product(event.version, None if event.deleted else event.price, event.qty == 0, *self._bounds(age_s))

    def _bounds(self, age_s: float) -> tuple[float, float]:
        """`fresh_until` and `usable_until` of what was so `age_s` ago. Nothing else bounds the age of a price."""
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
