"""Where the catalogue asks: Redis, then PostgreSQL. And where it listens: the product events."""

from decimal import Decimal

import msgspec
import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from database.sessions import Pool, reading
from ingest_api.catalogue import Catalogue
from pipeline import metrics, topology
from pipeline.broker import keep_connected, when_lost
from pipeline.health import Health
from pipeline.product_cache import CachedProduct, ProductCache
from pipeline.product_events import ProductEvent, decode_event
from pipeline.settings import PipelineSettings

log = structlog.get_logger()

EVENTS = "product events"

_PRODUCT = "SELECT version, price, qty, deleted_at IS NOT NULL AS deleted FROM products WHERE id = $1"


class _CachedBody(msgspec.Struct):
    """The part of a cached product that the catalogue needs."""

    price: Decimal
    qty: int


class ProductSource:
    """`load` for a Catalogue."""

    def __init__(self, cache: ProductCache, pool: Pool, timeout_s: float) -> None:
        self._cache, self._pool, self._timeout_s = cache, pool, timeout_s

    async def load(self, product_id: str, known_version: int) -> ProductEvent | None:
        """The product as it is now, or None. Raises StoreUnavailable when PostgreSQL cannot be asked.

        A cached product older than `known_version` was not busted when it should have been.
        """
        cached = await self._cache.read(product_id)
        if (
            cached is not None
            and cached.version >= known_version
            and (state := _from_cache(product_id, cached)) is not None
        ):
            metrics.CATALOGUE_LOOKUPS.labels("redis").inc()
            return state
        async with reading(self._pool, self._timeout_s) as connection:
            row = await connection.fetchrow(_PRODUCT, product_id)
        metrics.CATALOGUE_LOOKUPS.labels("postgres").inc()
        return ProductEvent(product_id, *row) if row else None


async def follow_events(settings: PipelineSettings, health: Health, catalogue: Catalogue) -> None:
    """Keep `catalogue` fresh by the product events, until cancelled."""

    async def on_event(message: DeliveredMessage) -> None:
        try:
            catalogue.apply(decode_event(message.body))
        except msgspec.DecodeError as error:
            log.warning("product event ignored", error=str(error), body=message.body[:200])

    async def session(connection: AbstractConnection) -> None:
        channel = await connection.channel(publisher_confirms=False)
        queue = await topology.declare_product_events(channel)
        lost = when_lost(connection, channel)
        underlay = await channel.get_underlay_channel()
        await underlay.basic_consume(queue.name, on_event, no_ack=True)
        catalogue.distrust()  # whatever happened before the queue was bound was not heard
        health.up(EVENTS)
        await lost

    await keep_connected(settings, health, EVENTS, session)


def _from_cache(product_id: str, cached: CachedProduct) -> ProductEvent | None:
    """None if the body is not one of product_api's: Redis is no authority, so PostgreSQL is asked."""
    try:
        body = msgspec.json.decode(cached.body, type=_CachedBody)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("cached product ignored", product_id=product_id, error=str(error))
        return None
    return ProductEvent(product_id, cached.version, body.price, body.qty)
