"""The application: routes as data, and the lifespan that makes what they need."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.routing import Route

from database.sessions import Pool, StoreUnavailable, make_pool
from pipeline.broker.publisher import Publisher
from pipeline.cache import product_cache, redis_link
from pipeline.contract import topology
from pipeline.process import lifecycle
from pipeline.process.breaker import Breaker
from pipeline.process.health import Health
from product_api.announcer import Announcer
from product_api.documents import documents
from product_api.endpoints import ProductEndpoints
from product_api.operations import OPERATIONS
from product_api.products import Products
from product_api.reader import ProductReader
from product_api.settings import ProductSettings
from web.access.clients import Guard
from web.access.keys import Keys, hosts_of, load_keys
from web.requests.routes import make_routes
from web.serving.application import make_api

DATABASE, BROKER, REDIS = "database", "broker", "redis"

# Soon enough for probes that wait for readiness, and hardly any load.
_PING_EVERY_S = 1.0


def make_app(settings: ProductSettings) -> Starlette:
    """The Starlette application. Nothing connects before its lifespan begins. Raises Misconfigured."""
    keys = load_keys(settings)
    # Without the broker or Redis every request is still answered: without events, or more slowly.
    health = Health("product_api", DATABASE, optional=(BROKER, REDIS))
    running = partial(_running, settings, health, keys)
    pages = documents(settings.public_path, settings.orders_url)
    return make_api(health, running, StoreUnavailable, keys, pages, hosts_of(settings, keys))


@asynccontextmanager
async def _running(settings: ProductSettings, health: Health, keys: Keys) -> AsyncIterator[list[Route]]:
    reads, writes = _pool(settings, settings.database_readers), _pool(settings, settings.database_writers)
    async with redis_link.connect(settings.redis_url) as redis, reads, writes:
        products = Products(reads, writes, settings.database_timeout_s)
        cache = product_cache.ProductCache(redis, settings.namespace)
        publisher = Publisher(settings, health, BROKER, topology.declare_products)
        announcer = Announcer(cache, publisher, settings.event_wait_s)
        reader = ProductReader(cache, products)
        async with lifecycle.background(publisher.run(), cache.watch(health, REDIS), _watch(products, health)):
            yield _routes(ProductEndpoints(products, reader, announcer, settings.max_body_bytes), keys.guard)
            await announcer.drain()


def _pool(settings: ProductSettings, size: int) -> Pool:
    return make_pool(settings.database_url, "product_api", size, settings.database_timeout_s)


def _routes(endpoints: ProductEndpoints, guard: Guard) -> list[Route]:
    it = endpoints
    by_operation = {
        "listProducts": it.page,
        "createProduct": it.create,
        "getProduct": it.get,
        "replaceProduct": it.replace,
        "patchProduct": it.patch,
        "deleteProduct": it.delete,
        "restockProduct": it.restock,
    }
    return make_routes(OPERATIONS, by_operation, guard)


async def _watch(products: Products, health: Health) -> None:
    """Tell `health` every second whether PostgreSQL works, until cancelled."""
    told = Breaker("postgresql")
    while True:
        try:
            await products.ping()
            told.worked()
            health.up(DATABASE)
        except StoreUnavailable as error:
            told.failed(error)
            health.down(DATABASE, f"PostgreSQL: {error}")
        await asyncio.sleep(_PING_EVERY_S)
