"""The application: routes as data, and the lifespan that makes what they need."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import Route

from database.sessions import Pool, StoreUnavailable, make_pool
from ingest_api.accept import AcceptOrder, Intake
from ingest_api.bulk import AcceptBulk
from ingest_api.catalogue import Catalogue
from ingest_api.idempotency import Replays
from ingest_api.lookup import OrderLookup
from ingest_api.operations import OPERATIONS
from ingest_api.product_source import EVENTS, ProductSource, follow_events
from ingest_api.settings import IngestSettings
from pipeline import lifecycle, product_cache, redis_link, topology
from pipeline.group_commit import GroupCommit
from pipeline.health import Health
from pipeline.order_ids import OrderIds
from pipeline.publisher import Publisher
from web.application import make_api
from web.operations import make_routes, unguarded

BROKER = "broker"


def make_app(settings: IngestSettings) -> Starlette:
    """Nothing connects before the lifespan begins."""
    # Readiness is the broker alone: without the others, orders for known products are still accepted.
    health = Health("ingest_api", BROKER, optional=(EVENTS,))
    return make_api(health, partial(_running, settings, health), StoreUnavailable)


@asynccontextmanager
async def _running(settings: IngestSettings, health: Health) -> AsyncIterator[list[Route]]:
    redis = redis_link.connect(settings.redis_url)
    pool = make_pool(settings.database_url, "ingest_api", settings.database_pool_size, settings.database_timeout_s)
    publisher = Publisher(settings, health, BROKER, topology.declare_accepted)
    async with redis, pool:
        source = ProductSource(product_cache.ProductCache(redis), pool, settings.database_timeout_s)
        catalogue = Catalogue(settings, source.load)
        commits = _group_commit(settings, publisher)
        replays = _replays(settings, redis)
        events = follow_events(settings, health, catalogue)
        publishing = (commits.run() for _ in range(settings.publish_window))
        async with lifecycle.background(publisher.run(), events, replays.run(), *publishing):
            ids = OrderIds(settings.order_id_key.get_secret_value())
            yield _routes(settings, Intake(catalogue, ids, commits, replays, settings.accepted_status), pool)
            await commits.drain()
            await replays.drain()


def _routes(settings: IngestSettings, intake: Intake, pool: Pool) -> list[Route]:
    lookup = OrderLookup(pool, intake.ids, settings.database_timeout_s)
    endpoints = {
        "acceptOrder": AcceptOrder(intake, settings.max_body_bytes),
        "acceptOrders": AcceptBulk(intake, settings.max_bulk_bytes),
        "listOrdersOfProduct": lookup.of_product,
        "getOrder": lookup.get,
    }
    return make_routes(OPERATIONS, endpoints, unguarded)


def _replays(settings: IngestSettings, redis: Redis) -> Replays:
    return Replays(
        redis,
        remember_s=settings.idempotency_remember_s,
        in_flight_s=settings.idempotency_in_flight_s,
        max_waiting=settings.max_waiting_orders,
    )


def _group_commit(settings: IngestSettings, publisher: Publisher) -> GroupCommit:
    return GroupCommit(
        publisher,
        topology.ORDERS_EXCHANGE,
        topology.ORDER_ACCEPTED,
        max_group_orders=settings.max_group_orders,
        max_group_bytes=settings.max_group_bytes,
        max_waiting_orders=settings.max_waiting_orders,
        max_waiting_bytes=settings.max_waiting_bytes,
        timeout_s=settings.confirm_timeout_s,
    )
