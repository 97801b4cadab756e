"""A million orders wait when the workers start, as after an outage of the database."""

import time

import pytest

from benchmarks.experiments.made_orders import fill_queue
from database.connection import Connection
from tests.support.services.ingest import insert_product
from tests.support.services.processes import service_process
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

QUEUED = 1_000_000
# Messages are as large as ingest_api makes them under a flood, and sent one by one, so their order is known.
_GROUP, _IN_FLIGHT = 500, 1
_DRAINED_WITHIN_S = 400.0

_INVERTED = """
    SELECT product_id, count(*) FILTER (WHERE outcome = 'PROCESSED') AS sold,
           max(order_id::text) FILTER (WHERE outcome = 'PROCESSED')
           > min(order_id::text) FILTER (WHERE outcome = 'FAILED') AS inverted
    FROM stock_ledger GROUP BY product_id
"""
"""Ids of one process grow with the time of acceptance, so as text they are the order of acceptance."""


@pytest.mark.deep
@pytest.mark.timeout(900)
async def test_p4_a_million_queued_orders_are_decided_in_the_order_of_their_acceptance(
    environment: dict[str, str],
) -> None:
    """P1, P2, P4: each product's stock goes to the first orders, and no later order gets what an earlier did not."""
    database_url = environment["DATABASE_URL"]
    # The first products sell out at once, the last ones never.
    stocks = {await insert_product(database_url, "12.50", qty): qty for qty in range(0, 150_000, 10_000)}
    queued = await fill_queue(environment["AMQP_URL"], list(stocks), QUEUED, _GROUP, _IN_FLIGHT)
    assert queued == sorted(queued)
    started = time.monotonic()
    async with (
        service_process("persist_worker", environment),
        service_process("product_consumer", environment),
        connected(database_url) as connection,
    ):
        await eventually(lambda: _all_are_decided(connection), _DRAINED_WITHIN_S, 0.5)
        print(f"{QUEUED:,} orders drained in {time.monotonic() - started:.1f} s")
        found = await connection.fetch(_INVERTED)
        per_product = QUEUED // len(stocks)
        assert {str(row["product_id"]): row["sold"] for row in found} == {
            product: min(stock, wanted)
            for product, stock in stocks.items()
            for wanted in [per_product + (list(stocks).index(product) < QUEUED % len(stocks))]
        }
        assert [row for row in found if row["inverted"]] == []
        stored = await connection.fetchval("SELECT count(*) FROM orders JOIN stock_ledger ON order_id = id")
        assert stored == QUEUED


async def _all_are_decided(connection: Connection) -> bool:
    return bool(await connection.fetchval("SELECT count(*) FROM stock_ledger") == QUEUED)
