"""Writes, forwards and acks batch after batch. Each step is durable before the next, and each may happen twice."""

import asyncio
from collections.abc import Sequence

import structlog

from database.channels import VERDICTS
from database.connection import Connection, Database
from database.dead_letters import DeadLetter
from persist_worker.forward import forward
from persist_worker.write import Written, each_once, identity, write
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.deliveries import Batch
from pipeline.broker.incoming import Incoming, read
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.contract.orders import AnyOrder, encode_order, join_orders
from pipeline.contract.stages import Stage
from pipeline.process import metrics
from pipeline.process.health import Health

log = structlog.get_logger()

PUBLISHER = "publisher"


class PersistWorker:
    def __init__(
        self,
        consumer: BatchConsumer,
        database: Database,
        publisher: Publisher,
        health: Health,
        stop: asyncio.Event,
    ) -> None:
        """`stop`: once set, a batch that cannot be stored or forwarded at once is left to the broker."""
        self._consumer, self._database, self._publisher, self._health = consumer, database, publisher, health
        self._stop = stop

    async def run_once(self) -> int | None:
        """Process one batch, from its close to its ack. Returns how many orders it held; None when drained.

        Raises Abandoned.
        """
        batch = await self._consumer.next()
        if batch is None:
            return None
        incoming = read(batch.deliveries)
        orders = each_once(incoming.orders)
        dead = [DeadLetter.of(it) for it in incoming.unreadable]

        async def store(connection: Connection) -> Written:
            return await write(connection, orders, dead)

        written = await self._database.until_it_works(store, self._consumer.queue_name)
        if written.parked:
            await self._database.notify(VERDICTS)  # they are FAILED, and no later stage will notify
        await self._forward(to_forward(incoming, orders, written), len(orders), incoming.schema)
        await self._consumer.settle(batch)
        self._tell(batch, incoming, written)
        return len(incoming.orders)

    async def _forward(self, body: bytes | None, orders: int, schema: int) -> None:
        """Forward until confirmed; readiness says meanwhile why not. Raises Abandoned."""
        if body is None:
            return
        queue = self._consumer.queue_name
        if await forward(
            self._publisher, body, orders, schema, queue=queue, stop=self._stop, unconfirmed=self._tell_unconfirmed
        ):
            self._health.up(PUBLISHER)

    def _tell_unconfirmed(self, outcome: Outcome) -> None:
        if outcome is not Outcome.NOT_SENT:  # there, the publisher itself reports why, and when it is back
            self._health.down(PUBLISHER, f"{topology.ORDER_CREATED} not confirmed: {outcome.value}")

    def _tell(self, batch: Batch, incoming: Incoming, written: Written) -> None:
        repeated = len(incoming.orders) - len(written.stored) - len(written.refused)
        metrics.DUPLICATES.labels(Stage.PERSIST).inc(repeated)
        log.debug("batch", orders=len(incoming.orders), closed_by=batch.closed_by.value, path=written.path)
        if repeated or written.parked:
            log.info("batch with repetitions", repeated=repeated, parked=len(written.parked), path=written.path)
        for letter in written.parked:
            log.error("order parked", order_id=letter.order_id, reason=letter.reason, detail=letter.detail)


def to_forward(incoming: Incoming, orders: Sequence[AnyOrder], written: Written) -> bytes | None:
    """The body of order.created: every stored order of the batch, also those that were stored before.

    The worker that stored those may have died before it forwarded them. None: there is nothing to forward.
    """
    if incoming.body is not None and not written.refused:
        return incoming.body
    refused = set(map(identity, written.refused))
    encoded = [encode_order(order) for order in orders if identity(order) not in refused]
    return join_orders(encoded) if encoded else None
