"""Runs the two workers in this process, on real services, one batch at a time."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from database import sessions
from database.connection import Connection, Database
from persist_worker.settings import PersistSettings
from persist_worker.worker import PersistWorker
from persist_worker.write import prepare, write
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.publisher import Publisher
from pipeline.cache import product_cache, redis_link
from pipeline.contract import topology
from pipeline.contract.orders import AnyOrder
from pipeline.process.health import Health
from product_consumer.cancel_consumer import PART, CancelConsumer
from product_consumer.consumer import ProductConsumer
from product_consumer.ledger import record
from product_consumer.settings import ConsumerSettings
from tests.support.brokers.broker import running_task
from tests.support.data.products import Audit
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Connection]:
    """A connection to the database."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        connection.terminate()


async def unprepared(_: Connection) -> None:
    """Prepare a connection as product_consumer does: nothing."""


@asynccontextmanager
async def locked(database_url: str, tables: str) -> AsyncIterator[None]:
    """Lock the tables for the block: no other connection can read them."""
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        yield


def wait_20_ms_for_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a lock timeout of 20 ms for new connections of this process."""
    monkeypatch.setitem(sessions._SETTINGS, "lock_timeout", "20ms")


@dataclass
class Worker:
    """A worker's parts. `run_once` processes one batch."""

    consumer: BatchConsumer
    database: Database
    publisher: Publisher
    service: Any
    stop: asyncio.Event
    """Set by SIGTERM."""

    async def run_once(self) -> int | None:
        count: int | None = await self.service.run_once()
        return count

    async def run_all(self) -> None:
        """Process batches until the consumer is stopped and its buffer is empty."""
        while await self.run_once() is not None:
            pass

    async def die_before(self, owner: object, method: str) -> None:
        """Process a batch up to this call and no further, as a kill -9 or the end of the grace period would."""
        reached = asyncio.Event()

        async def never(*_: object, **__: object) -> None:
            reached.set()
            await asyncio.get_running_loop().create_future()

        setattr(owner, method, never)
        batch = asyncio.create_task(self.run_once())
        dying = asyncio.create_task(reached.wait())
        await asyncio.wait({batch, dying}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert reached.is_set(), batch
        batch.cancel()
        await asyncio.wait({batch})


@asynccontextmanager
async def persist_worker(environment: Mapping[str, str], **changes: object) -> AsyncIterator[Worker]:
    """A connected persist_worker. A test calls `run_once` for each batch."""
    settings = settings_from(PersistSettings, environment, **{"linger_ms": 0, **changes})
    health = Health("persist_worker", "database", "consumer", "publisher")
    publisher = Publisher(settings, health, "publisher", topology.declare_created)
    consumer = BatchConsumer(
        settings,
        health,
        "consumer",
        topology.declare_accepted,
        settings.limits(),
        settings.prefetch,
        watched=(topology.ORDERS_DEAD_QUEUE,),
    )
    stop = asyncio.Event()
    database = Database(settings.database_url, health, prepare, stop)
    service = PersistWorker(consumer, database, publisher, health, stop)
    worker = Worker(consumer, database, publisher, service, stop)
    async with _running(worker, health):
        yield worker


@asynccontextmanager
async def product_consumer(environment: Mapping[str, str], **changes: object) -> AsyncIterator[Worker]:
    """A connected product_consumer. A test calls `run_once` for each batch."""
    settings = settings_from(ConsumerSettings, environment, **{"linger_ms": 0, **changes})
    health = Health("product_consumer", "database", "consumer", optional=("publisher",))
    publisher = Publisher(settings, health, "publisher", topology.declare_products)
    consumer = BatchConsumer(
        settings, health, "consumer", topology.declare_created, settings.limits(), settings.prefetch
    )
    stop = asyncio.Event()
    database = Database(settings.database_url, health, unprepared, stop)
    async with redis_link.connect(settings.redis_url) as redis:
        cache = product_cache.ProductCache(redis, settings.namespace)
        service = ProductConsumer(consumer, database, cache, publisher)
        worker = Worker(consumer, database, publisher, service, stop)
        async with _running(worker, health):
            yield worker


@asynccontextmanager
async def cancel_consumer(environment: Mapping[str, str]) -> AsyncIterator[Worker]:
    """The part of product_consumer that cancels, connected. A test calls `run_once` for each batch."""
    settings = settings_from(ConsumerSettings, environment)
    health = Health("product_consumer", PART, optional=("publisher",))
    publisher = Publisher(settings, health, "publisher", topology.declare_products)
    stop = asyncio.Event()
    async with redis_link.connect(settings.redis_url) as redis:
        cache = product_cache.ProductCache(redis, settings.namespace)
        service = CancelConsumer.of(settings, health, cache, publisher, stop)
        worker = Worker(service._consumer, service._database, publisher, service, stop)
        async with _running(worker, health):
            yield worker


async def buffered(worker: Worker, count: int) -> None:
    """Wait until the worker has received exactly that many messages that are not in a batch yet."""
    await eventually(lambda: len(worker.consumer._buffer) == count)


@asynccontextmanager
async def _running(worker: Worker, health: Health) -> AsyncIterator[None]:
    try:
        async with running_task(worker.publisher.run(), worker.consumer.run(), worker.database.watch()):
            await eventually(lambda: health.is_ready and worker.publisher.is_open)
            yield
    finally:
        await worker.database.close()


@asynccontextmanager
async def redis_client(redis_url: str) -> AsyncIterator[Redis]:
    async with redis_link.connect(redis_url) as redis:
        yield redis


# ── what is in the database


@dataclass(frozen=True)
class DeadRow:
    """A dead letter, without clock times and PostgreSQL's wording."""

    order_id: str | None
    stage: str
    reason: str
    body: bytes


async def dead_letters(connection: Connection) -> list[DeadRow]:
    """All dead letters, in the order of parking."""
    rows = await connection.fetch("SELECT order_id::text, stage, reason, body FROM dead_letters ORDER BY id")
    return [DeadRow(*row) for row in rows]


async def stored_orders(connection: Connection) -> dict[str, tuple[str, int]]:
    """Order id → (product, quantity)."""
    rows = await connection.fetch("SELECT id::text, product_id::text, quantity FROM orders")
    return {row["id"]: (row["product_id"], row["quantity"]) for row in rows}


async def stored_lines(connection: Connection) -> dict[str, list[tuple[str, int]]]:
    """Order id → product and quantity of each line."""
    found: dict[str, list[tuple[str, int]]] = {}
    for row in await connection.fetch("SELECT id::text, product_id::text, quantity FROM orders ORDER BY line"):
        found.setdefault(row["id"], []).append((row["product_id"], row["quantity"]))
    return found


async def add_product(connection: Connection, product_id: str, qty: int, price: str = "12.50") -> None:
    """Insert a product with the adjustment that explains its stock."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO products (id, name, price, qty) VALUES ($1, 'a thing', $2::text::numeric, $3)",
            product_id,
            price,
            qty,
        )
        if qty:
            await connection.execute(
                "INSERT INTO stock_adjustments (product_id, delta, reason) VALUES ($1, $2, 'creation')", product_id, qty
            )


async def settle(connection: Connection, orders: Sequence[AnyOrder]) -> None:
    """Store and decide orders as the two workers do. `connection`: prepared as persist_worker's."""
    await write(connection, orders, [])
    await record(connection, orders, [])


async def park(
    connection: Connection,
    it: AnyOrder,
    *,
    stage: str = "persist",
    reason: str = "invalid_data",
    replayed: bool = False,
) -> None:
    """Park a unique dead letter of this order."""
    await connection.execute(
        "INSERT INTO dead_letters (order_id, stage, reason, detail, body, replayed_at)"
        " VALUES ($1, $2, $3, '', gen_random_uuid()::text::bytea, CASE WHEN $4 THEN now() END)",
        it.id,
        stage,
        reason,
        replayed,
    )


async def assert_conserved(connection: Connection) -> None:
    """P3: qty = Σ adjustments − Σ quantity of PROCESSED orders, for every product."""
    assert await Audit(connection).unbalanced() == []


async def verdicts(connection: Connection) -> dict[str, str | None]:
    """Order id → reason of its verdict; None: processed. Undecided orders are left out."""
    rows = await connection.fetch("SELECT order_id::text, reason FROM stock_ledger")
    return {row["order_id"]: row["reason"] for row in rows}


async def qty_of(connection: Connection, product_id: str) -> int:
    qty: int = await connection.fetchval("SELECT qty FROM products WHERE id = $1", product_id)
    return qty
