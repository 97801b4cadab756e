"""Reads the servers directly: what is stored, decided, queued and cached."""

from collections.abc import Sequence

import httpx

from database import event_log
from database.connection import Connection
from pipeline.contract import topology
from proof.accounting_sql import stocks_of
from proof.events_sql import audit_events
from tests.chaos.account.invariants import Decided, FinalState, Stored
from tests.chaos.account.recovery import SLICE_S, Histogram
from tests.support.brokers.broker import plain_channel
from tests.support.data.products import Audit

QUEUES = tuple(topology.QUEUES.values())

_STORED = "SELECT id::text, product_id::text, quantity, unit_price, total_price FROM orders"
_DECIDED = "SELECT order_id::text, product_id::text, quantity FROM stock_ledger"
# A replayed letter does not count: its order must be elsewhere by now.
_PARKED = "SELECT order_id::text FROM dead_letters WHERE order_id IS NOT NULL AND replayed_at IS NULL"
_CAUSES = """
    SELECT order_id::text, count(*) FROM (
        SELECT order_id FROM stock_ledger
        UNION ALL SELECT order_id FROM cancellations WHERE outcome = 'returned'
        UNION ALL SELECT order_id FROM dead_letters WHERE order_id IS NOT NULL
    ) AS happened GROUP BY 1
"""
_UNDECIDED = """
    SELECT count(*) FROM orders WHERE NOT EXISTS (SELECT FROM stock_ledger WHERE order_id = orders.id)
    AND NOT EXISTS (SELECT FROM dead_letters WHERE order_id = orders.id AND replayed_at IS NULL)
"""
_PACE = f"SELECT floor(extract(epoch FROM decided_at) / {SLICE_S})::bigint, count(*) FROM stock_ledger GROUP BY 1"
_PRODUCTS = "SELECT id::text, name, price, qty FROM products WHERE id = ANY($1::uuid[])"


async def final_state(connection: Connection, product_ids: Sequence[str], queued: dict[str, int]) -> FinalState:
    """Read the database. Call it when no process writes any more."""
    return FinalState(
        [Stored(*row) for row in await connection.fetch(_STORED)],
        [Decided(*row) for row in await connection.fetch(_DECIDED)],
        [row[0] for row in await connection.fetch(_PARKED)],
        await stocks_of(connection, product_ids),
        queued,
    )


async def decided_histogram(connection: Connection) -> Histogram:
    """The times of the verdicts."""
    return Histogram({row[0]: row[1] for row in await connection.fetch(_PACE)})


async def undecided(connection: Connection) -> int:
    count: int = await connection.fetchval(_UNDECIDED)
    return count


async def causes_of_events(connection: Connection) -> dict[str, int]:
    """Order id → number of its events: each time it was parked, its verdict, and its cancellation after it."""
    return {row[0]: row[1] for row in await connection.fetch(_CAUSES)}


async def wrong_in_the_log(connection: Connection) -> list[str]:
    """Where the event log differs from the verdicts and dead letters. Numbers what waits."""
    await event_log.number(connection)
    async with connection.transaction():
        return [" ".join(it) async for it in audit_events(connection)]


async def unbalanced(connection: Connection) -> list[str]:
    """Products that break P3 now, in one snapshot."""
    return [str(it) for it in await Audit(connection).unbalanced()]


async def queues(amqp_url: str) -> dict[str, tuple[int, int]]:
    """Queue → (ready messages, consumers), for each queue of orders."""
    found = {}
    async with plain_channel(amqp_url) as channel:
        for queue in QUEUES:
            result = (await channel.declare_queue(queue, passive=True)).declaration_result
            found[queue] = (result.message_count or 0, result.consumer_count or 0)
    return found


async def products_in_database(connection: Connection, product_ids: Sequence[str]) -> dict[str, object]:
    rows = await connection.fetch(_PRODUCTS, product_ids)
    return {row["id"]: (row["name"], float(row["price"]), row["qty"]) for row in rows}


async def products_in_cache(product_api: httpx.AsyncClient, product_ids: Sequence[str]) -> dict[str, object]:
    """Product id → product_api's answer, through the cache."""
    found: dict[str, object] = {}
    for product_id in product_ids:
        response = await product_api.get(f"/products/{product_id}")
        product = response.json()
        found[product_id] = response.status_code == 200 and (product["name"], product["price"], product["qty"])
    return found
