"""Processes one batch after another: decide and commit, bust, notify, announce, ack.

It notifies after the bust, so that a request woken by it meets no stale page. If the process dies between commit and
notification, the batch is unacknowledged: its redelivery notifies.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Sequence

import structlog

from database.channels import VERDICTS
from database.connection import Connection, Database
from database.dead_letters import DeadLetter, count_parked
from database.faults import Fault, fault_of
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.incoming import read
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.cache.product_cache import ProductCache
from pipeline.contract import topology
from pipeline.contract.orders import AnyOrder
from pipeline.contract.product_events import ProductEvent, encode_event
from pipeline.contract.stages import Stage
from pipeline.process import metrics
from product_consumer.ledger import Recorded, record, sort_out

log = structlog.get_logger()

# An announcement is a hint, so it may not delay a batch for long.
_ANNOUNCE_TIMEOUT_S = 0.5
# Sold-out products that were logged; beyond this many, one may be logged a second time.
_SOLD_OUT_REMEMBERED = 1000


class ProductConsumer:
    def __init__(self, consumer: BatchConsumer, database: Database, cache: ProductCache, publisher: Publisher) -> None:
        self._consumer, self._database, self._cache, self._publisher = consumer, database, cache, publisher
        self._told_sold_out: OrderedDict[str, int] = OrderedDict()

    async def run_once(self) -> int | None:
        """Process one batch, from its close to its ack. Returns how many orders it held; None when drained.

        Raises Abandoned.
        """
        batch = await self._consumer.next()
        if batch is None:
            return None
        incoming = read(batch.deliveries)
        orders = {order.id: order for order in incoming.orders}
        dead = [DeadLetter.of(it) for it in incoming.unreadable]
        recorded = await self._record(list(orders.values()), dead)
        self._count(orders, recorded, repeated=len(incoming.orders) - len(orders))
        await self._cache.bust_or_defer((it.id, it.version) for it in recorded.products)
        await self._database.notify(VERDICTS)
        await self._announce([it for it in recorded.products if it.qty == 0 and not it.deleted])
        await self._consumer.settle(batch)
        return len(incoming.orders)

    async def _record(self, orders: Sequence[AnyOrder], dead: list[DeadLetter]) -> Recorded:
        async def work(connection: Connection) -> Recorded:
            return await record(connection, orders, dead)

        try:
            recorded = await self._database.until_it_works(work, self._consumer.queue_name)
        except Exception as error:
            if fault_of(error) is not Fault.DATA:
                raise
            good, refused = sort_out(orders)
            if not refused:
                raise  # PostgreSQL refuses orders in which we find no fault: a bug, and no order may pay for it
            return await self._record(good, [*dead, *refused])
        count_parked(Stage.STOCK, recorded.parked)
        for letter in recorded.parked:
            log.error("order parked", order_id=letter.order_id, reason=letter.reason, detail=letter.detail)
        return recorded

    async def _announce(self, sold_out: list[ProductEvent]) -> None:
        """Tell every ingest_api what is sold out.

        All at once, so that a slow broker costs one deadline, not one a product. An ingest_api that misses it accepts
        orders that will fail, until its catalogue's TTL.
        """
        if new := [it.id for it in sold_out if self._is_news(it)]:
            log.info("sold out", products=new)
        await asyncio.gather(*map(self._announce_one, sold_out))

    def _is_news(self, event: ProductEvent) -> bool:
        """Whether it was not logged yet: each later order for the product yields the same event."""
        told, self._told_sold_out[event.id] = self._told_sold_out.pop(event.id, None), event.version
        if len(self._told_sold_out) > _SOLD_OUT_REMEMBERED:
            self._told_sold_out.popitem(last=False)
        return told != event.version

    async def _announce_one(self, event: ProductEvent) -> None:
        key, body = topology.PRODUCT_SOLD_OUT, encode_event(event)
        outcome = await self._publisher.publish(topology.PRODUCTS_EXCHANGE, key, body, timeout_s=_ANNOUNCE_TIMEOUT_S)
        if outcome not in (Outcome.CONFIRMED, Outcome.UNROUTABLE):  # unroutable: no ingest_api is running
            log.warning("sold_out not announced", product_id=event.id, outcome=outcome.value)

    def _count(self, orders: dict[str, AnyOrder], recorded: Recorded, repeated: int) -> None:
        decided = [orders[verdict.order_id].created_at for verdict in recorded.verdicts]
        metrics.ACCEPT_TO_DECIDED.observe_since(decided)
        repeated += recorded.duplicates
        metrics.DUPLICATES.labels(Stage.STOCK).inc(repeated)
        if repeated:
            log.info("batch with repetitions", repeated=repeated)
        for (outcome, reason), count in Counter((it.outcome, it.reason) for it in recorded.verdicts).items():
            metrics.ORDERS_DECIDED.labels(outcome, reason or "").inc(count)
        for settled in recorded.settled:
            metrics.CANCELLATIONS.labels(settled.outcome).inc()
