"""python -m product_consumer"""

import asyncio

from database.connection import PART as DATABASE
from database.connection import Connection, Database
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.publisher import Publisher
from pipeline.cache import product_cache, redis_link
from pipeline.contract import topology
from pipeline.process import lifecycle
from pipeline.process.health import Health
from product_consumer.cancel_consumer import PART as CANCELLATIONS
from product_consumer.cancel_consumer import CancelConsumer
from product_consumer.consumer import ProductConsumer
from product_consumer.settings import ConsumerSettings
from web.serving import server
from web.serving.application import health_app

CONSUMER, PUBLISHER, REDIS = "consumer", "publisher", "redis"


async def main(settings: ConsumerSettings, stop: asyncio.Event) -> None:
    # Optional: announcements are hints, busts are deferred while Redis is away, and cancellations wait in their queue.
    # Orders are decided without any of them.
    health = Health("product_consumer", DATABASE, CONSUMER, optional=(PUBLISHER, REDIS, CANCELLATIONS))
    database = Database(settings.database_url, health, _prepare, stop)
    publisher = Publisher(settings, health, PUBLISHER, topology.declare_products)
    consumer = BatchConsumer(settings, health, CONSUMER, topology.declare_created, settings.limits(), settings.prefetch)
    serving = server.serve_health(health_app(health), settings.host, settings.port)
    async with redis_link.connect(settings.redis_url) as redis:
        cache = product_cache.ProductCache(redis, settings.namespace)
        worker = ProductConsumer(consumer, database, cache, publisher)
        watching = (database.watch(), cache.watch(health, REDIS))
        async with lifecycle.background(publisher.run(), consumer.run(), *watching, serving, stop=stop):
            cancels = CancelConsumer.of(settings, health, cache, publisher, stop)
            cancelling = asyncio.create_task(cancels.run(settings.stop_grace_s))
            await lifecycle.work_until_stopped(worker.run_once, stop, consumer.stop, settings.stop_grace_s)
            await cancelling
        await database.close()


async def _prepare(_: Connection) -> None:
    """Nothing: the ledger needs no temporary tables."""


if __name__ == "__main__":
    lifecycle.run("product_consumer", ConsumerSettings, main)
