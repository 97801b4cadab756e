"""Consumes orders.cancel_requested, one batch after another: store and settle, bust, notify, announce, ack.

It runs beside the consumer of orders, with a database connection of its own, so that no batch of orders waits for it.
A bug here ends only this consumer.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from database.channels import VERDICTS
from database.connection import PART as DATABASE
from database.connection import Connection, Database
from database.dead_letters import DeadLetter, count_parked
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.deliveries import BatchLimits, Delivery
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.cache.product_cache import ProductCache
from pipeline.contract import topology
from pipeline.contract.cancellations import (
    SCHEMA,
    Cancellation,
    CancelOutcome,
    InvalidCancellation,
    decode_cancellation,
)
from pipeline.contract.orders import InvalidOrder, split_body
from pipeline.contract.product_events import ProductEvent, encode_event
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from pipeline.process import lifecycle, metrics
from pipeline.process.health import Health
from pipeline.process.settings import PipelineSettings
from product_consumer.cancel import Cancelled, cancel
from product_consumer.cancellations import orders_with
from product_consumer.decide import CANCELLED

log = structlog.get_logger()

PART = "cancellations"

# A hint, so it may not delay a batch for long.
_ANNOUNCE_TIMEOUT_S = 0.5
# Few orders are cancelled, and few clients wait for it. A batch takes two commits, and holds the locks of its products
# while it runs, so it may collect for a while. With 5 % of the orders cancelled, 25 ms and 16 deliveries cost 8 % more
# CPU an order.
LIMITS = BatchLimits(orders=500, size_bytes=512 * 1024, deliveries=128, linger_s=0.1)
PREFETCH = 256


@dataclass(frozen=True, slots=True)
class Requested:
    """The content of a batch."""

    cancellations: list[Cancellation] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    """What cannot be read. It names no order: an order goes on without a cancellation that nobody understands."""


def read_cancellations(deliveries: Iterable[Delivery]) -> Requested:
    """Decode a batch. Never raises: what is unreadable costs only itself (P10)."""
    found = Requested()
    for delivery in deliveries:
        if delivery.schema != SCHEMA:
            detail = f"the message says schema {delivery.schema!r}; this worker reads {SCHEMA}"
            found.dead.append(DeadLetter(None, Reason.UNKNOWN_SCHEMA, detail, delivery.body, delivery.schema))
            continue
        try:
            elements = split_body(delivery.body)
        except InvalidOrder as error:
            found.dead.append(DeadLetter(None, Reason.UNREADABLE, str(error), delivery.body))
            continue
        for element in elements:
            try:
                found.cancellations.append(decode_cancellation(element))
            except InvalidCancellation as error:
                found.dead.append(DeadLetter(None, Reason.UNREADABLE, str(error), b"[" + element + b"]"))
    return found


# ── I/O below


class CancelConsumer:
    def __init__(
        self,
        consumer: BatchConsumer,
        database: Database,
        cache: ProductCache,
        publisher: Publisher,
        health: Health,
        stop: asyncio.Event,
    ) -> None:
        """`consumer`: of orders.cancel_requested. `database`: not shared. `publisher`: of product events."""
        self._consumer, self._database, self._cache, self._publisher = consumer, database, cache, publisher
        self._health, self._stop = health, stop

    @classmethod
    def of(
        cls, settings: PipelineSettings, health: Health, cache: ProductCache, publisher: Publisher, stop: asyncio.Event
    ) -> "CancelConsumer":
        """`health`: reports as PART, an optional part."""
        consumer = BatchConsumer(settings, health, PART, topology.declare_cancel_requested, LIMITS, PREFETCH)
        own = Health(f"{health.service} {PART}", DATABASE)
        return cls(consumer, Database(settings.database_url, own, _prepare, stop), cache, publisher, health, stop)

    async def run(self, grace_s: float) -> None:
        """Consume until the process stops. After a bug, only wait for that: cancellations stay in their queue."""
        try:
            async with lifecycle.background(self._consumer.run(), stop=self._stop):
                await lifecycle.work_until_stopped(self.run_once, self._stop, self._consumer.stop, grace_s)
        except Exception:
            log.critical(
                "bug in the consumer of orders.cancel_requested; no order is cancelled any more", exc_info=True
            )
            self._health.down(PART, "a bug, see the log: cancellations stay in orders.cancel_requested")
            await self._stop.wait()
        finally:
            await self._database.close()

    async def run_once(self) -> int | None:
        """Process one batch, from its close to its ack. Returns how many cancellations it held; None when drained.

        Raises Abandoned.
        """
        batch = await self._consumer.next()
        if batch is None:
            return None
        requested = read_cancellations(batch.deliveries)

        async def work(connection: Connection) -> Cancelled:
            return await cancel(connection, requested.cancellations, requested.dead)

        cancelled = await self._database.until_it_works(work, self._consumer.queue_name)
        _count(cancelled)
        await self._cache.bust_or_defer((it.id, it.version) for it in cancelled.products)
        await self._database.notify(VERDICTS)
        await self._announce([it for it in cancelled.products if it.id in cancelled.restocked])
        await self._consumer.settle(batch)
        return len(requested.cancellations)

    async def _announce(self, products: Sequence[ProductEvent]) -> None:
        """Tell every ingest_api that a sold-out product has units again. One that misses it learns it from its TTL."""
        await asyncio.gather(*(self._announce_one(it) for it in products if it.qty and not it.deleted))

    async def _announce_one(self, event: ProductEvent) -> None:
        key, body = topology.PRODUCT_RESTOCKED, encode_event(event)
        outcome = await self._publisher.publish(topology.PRODUCTS_EXCHANGE, key, body, timeout_s=_ANNOUNCE_TIMEOUT_S)
        if outcome not in (Outcome.CONFIRMED, Outcome.UNROUTABLE):  # unroutable: no ingest_api is running
            log.warning("restocked not announced", product_id=event.id, outcome=outcome.value)


async def _prepare(_: Connection) -> None:
    """Nothing: cancelling needs no temporary tables."""


def _count(cancelled: Cancelled) -> None:
    for outcome, count in Counter(it.outcome for it in cancelled.settled).items():
        metrics.CANCELLATIONS.labels(outcome).inc(count)
    metrics.ORDERS_DECIDED.labels(CANCELLED, "").inc(len(orders_with(CancelOutcome.BEFORE_VERDICT, cancelled.settled)))
    count_parked(Stage.CANCEL, cancelled.parked)
    for letter in cancelled.parked:
        log.error("cancellation parked", reason=letter.reason, detail=letter.detail)
