"""A catalogue on a store in memory, with a clock that the test moves."""

import asyncio
import uuid
from collections.abc import Mapping
from decimal import Decimal

from ingest_api.prices.catalogue import Catalogue, Found, Product
from ingest_api.settings import IngestSettings
from pipeline.contract.product_events import ProductEvent
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually

A, B, C = (f"00000000-0000-4000-8000-00000000000{digit}" for digit in "abc")
TTL_S, UNKNOWN_TTL_S, MAX_STALE_S = 30.0, 2.0, 600.0


ADDRESSES = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "AMQP_URL": "amqp://nobody@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "ORDER_ID_KEY": "6b" * 32,
}


def some_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def product(
    product_id: str, version: int = 1, price: str = "9.99", qty: int = 5, deleted: bool = False
) -> ProductEvent:
    return ProductEvent(product_id, version, Decimal(price), qty, deleted)


class Store:
    """Answers lookups at once. While `gate` is closed, answers wait, and show the state at the time of the question."""

    def __init__(self) -> None:
        self.products: dict[str, ProductEvent] = {}
        self.asked: list[str] = []
        self.known_versions: list[int] = []
        self.is_away, self.age_s = False, 0.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, known_versions: Mapping[str, int]) -> dict[str, Found | None]:
        self.asked += known_versions
        self.known_versions += known_versions.values()
        is_away, found = self.is_away, {it: self._found(it) for it in known_versions}
        await self.gate.wait()
        return {} if is_away else found

    def _found(self, product_id: str) -> Found | None:
        state = self.products.get(product_id)
        return Found(state, self.age_s) if state else None


class CatalogueSetup:
    """A catalogue, the store behind it, and a clock that the test moves."""

    def __init__(self, **changes: object) -> None:
        bounds = {"catalogue_ttl_s": TTL_S, "catalogue_unknown_ttl_s": UNKNOWN_TTL_S}
        settings = settings_from(IngestSettings, ADDRESSES, **bounds, catalogue_max_stale_s=MAX_STALE_S, **changes)
        self.store, self.now = Store(), 1000.0
        self.catalogue = Catalogue(settings, self.store.load)
        self.catalogue._now = lambda: self.now

    async def price(self, product_id: str) -> Decimal | None:
        return (await self.catalogue.find(product_id, "")).price

    async def ask_slowly(self, product_id: str) -> "asyncio.Task[Product]":
        """A lookup whose answer has left the store and has not arrived yet."""
        self.store.gate.clear()
        asked = len(self.store.asked)
        finding = asyncio.create_task(self.catalogue.find(product_id, ""))
        await eventually(lambda: len(self.store.asked) > asked)
        return finding
