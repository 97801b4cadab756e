"""Cancels orders as product_consumer does, and reads what became of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from database.connection import Connection
from pipeline.contract import topology
from pipeline.contract.cancellations import SCHEMA, Cancellation, encode_cancellation
from pipeline.contract.orders import AnyOrder, join_orders
from product_consumer.cancel import Cancelled, cancel
from tests.support.brokers.broker import plain_channel, send


def cancellation(it: AnyOrder, client: str = "", *, sees_all: bool = True, reason: str | None = None) -> Cancellation:
    """As an open service sends it; or as this client's."""
    return Cancellation(it.id, datetime.now(UTC), client, sees_all, reason)


def by(client: str, it: AnyOrder, *, sees_all: bool = False) -> Cancellation:
    return cancellation(it, client, sees_all=sees_all)


async def cancel_now(connection: Connection, *cancellations: Cancellation) -> Cancelled:
    return await cancel(connection, cancellations, [])


async def request_cancel(environment: Mapping[str, str], *messages: Sequence[Cancellation]) -> None:
    """Publish each list as one message, as ingest_api does."""
    for cancellations in messages:
        body = join_orders(map(encode_cancellation, cancellations))
        await request_raw(environment, body, orders=len(cancellations))


async def request_raw(environment: Mapping[str, str], body: bytes, **headers: object) -> None:
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_cancel_requested(channel)
        key = topology.ORDER_CANCEL_REQUESTED
        await send(channel, topology.ORDERS_EXCHANGE, key, body, headers={"schema": SCHEMA, **headers})


async def outcomes(connection: Connection, it: AnyOrder) -> list[str | None]:
    """The outcomes of the cancellations of an order, in the order of their requests; None: it waits."""
    query = "SELECT outcome FROM cancellations WHERE order_id = $1 ORDER BY requested_at, client, sees_all"
    return [row[0] for row in await connection.fetch(query, it.id)]


async def verdict_of(connection: Connection, it: AnyOrder) -> str | None:
    outcome: str | None = await connection.fetchval("SELECT outcome FROM stock_ledger WHERE order_id = $1", it.id)
    return outcome


async def returns_of(connection: Connection, it: AnyOrder) -> list[tuple[str, int]]:
    """Product and units of each adjustment that names the order."""
    query = "SELECT product_id::text, delta FROM stock_adjustments WHERE order_id = $1"
    return [tuple(row) for row in await connection.fetch(query, it.id)]
