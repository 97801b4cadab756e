"""Feeds the catalogue: look-ups in Redis, then PostgreSQL; and product events from the broker."""

import time
from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec
import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from database.sessions import Pool, StoreUnavailable, reading
from ingest_api.prices.catalogue import Catalogue, Found
from pipeline.broker.connection import answering, ends_within, keep_connected, when_lost
from pipeline.cache.product_cache import TTL_S, CachedProduct, ProductCache
from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent, decode_event
from pipeline.process import metrics
from pipeline.process.breaker import Breaker
from pipeline.process.health import Health
from pipeline.process.settings import PipelineSettings

log = structlog.get_logger()

EVENTS = "product events"

# How long events may go unheard after somebody deletes the exchange or the binding. Prices have their TTL meanwhile.
_BIND_EVERY_S = 10.0

_PRODUCTS = """
    SELECT id::text, version, price, qty, deleted_at IS NOT NULL AS deleted FROM products WHERE id = ANY($1::uuid[])
"""


class _CachedBody(msgspec.Struct):
    """The part of a cached product that the catalogue needs."""

    price: Decimal
    qty: int


class ProductSource:
    """`load` for a Catalogue. Once PostgreSQL has failed, the next questions fail at once for a second; then one of
    them tries it again.
    """

    def __init__(self, cache: ProductCache, pool: Pool, timeout_s: float, max_age_s: float = TTL_S) -> None:
        """`max_age_s`: of a cached product, since it was read from PostgreSQL."""
        self._cache, self._pool, self._timeout_s, self._max_age_s = cache, pool, timeout_s, max_age_s
        self._breaker = Breaker("postgresql for prices")

    async def load(self, known_versions: Mapping[str, int]) -> dict[str, Found | None]:
        """The products as they are now, None for ids that are not products. Those that PostgreSQL could not be asked
        about are missing.

        A cached product that is older than its known version missed a bust, so it is not used.
        """
        found = await self._cached(known_versions)
        if missing := [it for it in known_versions if it not in found]:
            found |= await self._stored(missing)
        return found

    async def _cached(self, known_versions: Mapping[str, int]) -> dict[str, Found | None]:
        found: dict[str, Found | None] = {}
        began = time.monotonic()
        products = await self._cache.read_many(known_versions)
        waited_s = time.monotonic() - began
        for product_id, product in products.items():
            age_s = product.age_s + waited_s
            is_current = product.version >= known_versions[product_id] and age_s < self._max_age_s
            if is_current and (state := _from_cache(product_id, product)) is not None:
                found[product_id] = Found(state, age_s)
        metrics.CATALOGUE_LOOKUPS.labels("redis").inc(len(found))
        return found

    async def _stored(self, product_ids: Sequence[str]) -> dict[str, Found | None]:
        if not self._breaker.may_try():
            return {}
        began = time.monotonic()
        try:
            async with reading(self._pool, self._timeout_s) as connection:
                rows = await connection.fetch(_PRODUCTS, product_ids)
        except StoreUnavailable as error:
            self._breaker.failed(error)
            return {}
        self._breaker.worked()
        metrics.CATALOGUE_LOOKUPS.labels("postgres").inc(len(product_ids))
        age_s = time.monotonic() - began
        return dict.fromkeys(product_ids) | {row["id"]: Found(ProductEvent(*row), age_s) for row in rows}


async def follow_events(settings: PipelineSettings, health: Health, catalogue: Catalogue) -> None:
    """Keep `catalogue` fresh by the product events, until cancelled."""

    async def on_event(message: DeliveredMessage) -> None:
        try:
            catalogue.apply(decode_event(message.body))
        except msgspec.DecodeError as error:
            log.warning("ignoring a product event that cannot be decoded", error=str(error), body=message.body[:200])

    async def session(connection: AbstractConnection) -> None:
        async with answering():
            channel = await connection.channel(publisher_confirms=False)
            queue = await topology.declare_product_events(channel)
        lost = when_lost(connection, channel)
        underlay = await channel.get_underlay_channel()
        await underlay.basic_consume(queue.name, on_event, no_ack=True)
        catalogue.distrust()  # events before the queue was bound went unheard
        health.up(EVENTS)
        while not await ends_within(lost, _BIND_EVERY_S):
            async with answering():
                await topology.bind_product_events(channel, queue)

    await keep_connected(settings, health, EVENTS, session)


def _from_cache(product_id: str, cached: CachedProduct) -> ProductEvent | None:
    """The product; None if product_api did not write the body. Redis is no authority, so PostgreSQL is asked then."""
    try:
        body = msgspec.json.decode(cached.body, type=_CachedBody)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("ignoring a cached product that cannot be decoded", product_id=product_id, error=str(error))
        return None
    return ProductEvent(product_id, cached.version, body.price, body.qty)
