"""Announces a committed change: busts the cache, and publishes an event on `products_exchange`."""

import asyncio

import structlog

from pipeline.broker.publisher import Outcome, Publisher
from pipeline.cache.product_cache import ProductCache
from pipeline.contract import topology
from pipeline.contract.adjustments import Adjustment
from pipeline.contract.product_events import ProductEvent, encode_event
from pipeline.process import metrics
from product_api.products import Change

log = structlog.get_logger()


def event_key(change: Change) -> str:
    """The routing key of the event for `change`."""
    if change.before is None:
        return topology.PRODUCT_CREATED
    if change.deleted:
        return topology.PRODUCT_DELETED
    before, after = change.before.product.qty, change.after.product.qty
    if after > before and (change.reason == Adjustment.RESTOCK or before == 0):
        return topology.PRODUCT_RESTOCKED
    return topology.PRODUCT_SOLD_OUT if before > 0 == after else topology.PRODUCT_UPDATED


class Announcer:
    """Busts and publishes. Never raises, never fails a request: the change is committed. TTLs make up for losses."""

    def __init__(self, cache: ProductCache, publisher: Publisher, wait_s: float) -> None:
        """`wait_s`: how long the caller waits for the event's confirm. The event has the publisher's own deadline."""
        self._cache, self._publisher, self._wait_s = cache, publisher, wait_s
        self._publishing: set[asyncio.Task[None]] = set()

    async def announce(self, change: Change) -> None:
        """Bust, so that the writer's next read shows what it wrote; then publish the event."""
        product, version = change.after
        await self._cache.bust_or_defer([(product.id, version)])
        event = ProductEvent(product.id, version, product.price, product.qty, change.deleted)
        # A task of its own: a publish that was sent must not be cancelled together with its request.
        publishing = asyncio.create_task(self._publish(event_key(change), event))
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)
        await asyncio.wait({publishing}, timeout=self._wait_s)

    async def doubt(self, change: Change) -> None:
        """Bust for a change that may have been made, so that a read now shows whether it was.

        The fence is at the version that the change would make. With a lower fence, a read before the late COMMIT could
        put the old value back. Without a COMMIT, nothing is cached until the next change, or until the fence ends.
        """
        await self.bust(change.after.product.id, change.after.version)

    async def bust(self, product_id: str, version: int) -> None:
        """Bust cached versions older than `version`."""
        await self._cache.bust_or_defer([(product_id, version)])

    async def drain(self) -> None:
        """Wait for the events that are still being published."""
        if self._publishing:
            await asyncio.wait(self._publishing)

    async def _publish(self, key: str, event: ProductEvent) -> None:
        outcome = await self._publisher.publish(topology.PRODUCTS_EXCHANGE, key, encode_event(event))
        metrics.PRODUCT_EVENTS.labels(key, outcome.value).inc()
        if outcome not in (Outcome.CONFIRMED, Outcome.UNROUTABLE):  # unroutable: no ingest_api listens
            log.warning("product event lost", key=key, product_id=event.id, outcome=outcome.value)
