"""python -m persist_worker"""

import asyncio

from database.connection import PART as DATABASE
from database.connection import Database
from persist_worker.dead_letter_consumer import PART as DEAD_LETTERS
from persist_worker.dead_letter_consumer import DeadLetterConsumer
from persist_worker.settings import PersistSettings
from persist_worker.worker import PUBLISHER, PersistWorker
from persist_worker.write import prepare
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.publisher import Publisher
from pipeline.contract import topology
from pipeline.process import lifecycle
from pipeline.process.health import Health
from web.serving import server
from web.serving.application import health_app

CONSUMER = "consumer"


async def main(settings: PersistSettings, stop: asyncio.Event) -> None:
    health = Health("persist_worker", DATABASE, CONSUMER, PUBLISHER, optional=(DEAD_LETTERS,))
    database = Database(settings.database_url, health, prepare, stop)
    publisher = Publisher(settings, health, PUBLISHER, topology.declare_created)
    consumer = BatchConsumer(
        settings,
        health,
        CONSUMER,
        topology.declare_accepted,
        settings.limits(),
        settings.prefetch,
        watched=(topology.ORDERS_DEAD_QUEUE,),
    )
    worker = PersistWorker(consumer, database, publisher, health, stop)
    dead_letters = DeadLetterConsumer.of(settings, health, publisher)
    serving = server.serve_health(health_app(health), settings.host, settings.port)
    running = publisher.run(), consumer.run(), database.watch(), dead_letters.run(), serving
    async with lifecycle.background(*running, stop=stop):
        await lifecycle.work_until_stopped(worker.run_once, stop, consumer.stop, settings.stop_grace_s)
    await database.close()


if __name__ == "__main__":
    lifecycle.run("persist_worker", PersistSettings, main)
