"""What ingest_api hears of products, and goes on hearing."""

from collections.abc import Mapping
from decimal import Decimal

import aio_pika
import pytest

from ingest_api.prices import product_source
from ingest_api.prices.catalogue import Catalogue, Found
from ingest_api.settings import IngestSettings
from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent, encode_event
from pipeline.process.health import Health
from tests.support.brokers.broker import plain_channel, running_task
from tests.support.data.orders import new_product_id
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually

A = new_product_id()


async def sold_out(known_versions: Mapping[str, int]) -> dict[str, Found | None]:
    """What the catalogue finds when it asks."""
    return {it: Found(ProductEvent(it, 1, Decimal("12.50"), 0), 0.0) for it in known_versions}


async def test_product_events_are_heard_again_after_somebody_has_deleted_their_exchange(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binding went with it, and who only listens is told nothing of that."""
    monkeypatch.setattr(product_source, "_BIND_EVERY_S", 0.05)
    settings = settings_from(IngestSettings, environment)
    health, catalogue = Health("test", product_source.EVENTS), Catalogue(settings, sold_out)
    restocked = encode_event(ProductEvent(A, 2, Decimal("12.50"), 3))
    async with (
        plain_channel(environment["AMQP_URL"]) as channel,
        running_task(product_source.follow_events(settings, health, catalogue)),
    ):
        await eventually(lambda: health.is_ready)
        assert (await catalogue.find(A, "")).sold_out
        await channel.exchange_delete(topology.PRODUCTS_EXCHANGE)
        await topology.declare_products(channel)  # as who publishes does
        exchange = await channel.get_exchange(topology.PRODUCTS_EXCHANGE)

        async def is_heard() -> bool:
            await exchange.publish(aio_pika.Message(restocked), topology.PRODUCT_RESTOCKED, mandatory=False)
            product = catalogue.get(A)
            return product is not None and not product.sold_out

        await eventually(is_heard)
