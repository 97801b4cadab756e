"""Forwards stored orders to product_consumer: publishes order.created until the broker confirms it."""

import asyncio
from collections.abc import Callable

import structlog

from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.process import metrics
from pipeline.process.backoff import backoff_s, wait_to_retry

log = structlog.get_logger()


async def forward(
    publisher: Publisher,
    body: bytes,
    orders: int,
    schema: int,
    *,
    queue: str,
    stop: asyncio.Event,
    unconfirmed: Callable[[Outcome], None] = lambda _: None,
) -> int:
    """Publish `body`, which holds `orders` of `schema`, until it is confirmed. Returns how many attempts failed.

    `queue`: where the orders came from, for the metric. `unconfirmed`: called after each attempt that failed. After a
    crash, the redelivered batch is forwarded once more. Raises Abandoned once `stop` is set and an attempt failed.
    """
    failed = 0
    while True:
        outcome = await publisher.publish(
            topology.ORDERS_EXCHANGE, topology.ORDER_CREATED, body, orders=orders, schema=schema
        )
        if outcome is Outcome.CONFIRMED:
            return failed
        unconfirmed(outcome)
        metrics.BATCH_RETRIES.labels(queue, outcome.value).inc()
        wait_s = backoff_s(failed)
        log.warning("order.created not confirmed; trying again", outcome=outcome.value, retry_in_s=round(wait_s, 2))
        failed += 1
        await wait_to_retry(stop, wait_s)
