"""`verify --repair`: sends orders without a verdict to product_consumer again, and changes nothing else.

Safe to repeat at any time: product_consumer drops orders that are decided, and the ledger's primary key guarantees it.
The message is the one that persist_worker sent, without the trace context, which no table has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import asyncpg
from aio_pika.abc import AbstractChannel

from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.contract.columns import selected
from pipeline.contract.orders import COLUMNS, encode_order, join_orders, order_from, schema_of_all
from proof.accounting_sql import Connection
from proof.audit_sql import late_ids
from stack.errors import HeadraceError
from stack.operate.publishing import CAUSES, publishing

# The size of persist_worker's largest batches; some 300 kB.
MESSAGE_ORDERS = 1_000
# Three times product_consumer's prefetch: above it, late orders are still in the queue, and would be there twice.
BACKLOG_MESSAGES = 100

AGAIN = "./headrace verify --repair, again: an order that is sent twice is decided once"

_ORDERS = f"SELECT {selected(COLUMNS, 'orders')} FROM orders WHERE id = ANY($1::uuid[]) ORDER BY accepted_at, id"


# ── I/O below


async def resend(connection: Connection, amqp_url: str, lag_s: float) -> list[str]:
    """Resend each order that has had no verdict for longer than `lag_s`. Returns their ids, 90 bytes each.

    Raises HeadraceError if the broker does not confirm, or if product_consumer has a backlog to work through first.
    """
    async with (
        connection.transaction(isolation="repeatable_read", readonly=True),
        aclosing(_chunks(late_ids(connection, lag_s))) as chunks,
    ):
        chunk = await anext(chunks, None)
        if chunk is None:
            return []  # without asking for a broker
        sent: list[str] = []
        async with publishing(amqp_url, "verify", _declare_without_backlog) as publisher:
            while chunk is not None:
                await _send(publisher, await connection.fetch(_ORDERS, chunk), len(sent))
                sent += chunk
                chunk = await anext(chunks, None)
        return sent


async def _send(publisher: Publisher, rows: Sequence[asyncpg.Record], sent: int) -> None:
    orders = [order_from(row) for row in rows]
    outcome = await publisher.publish(
        topology.ORDERS_EXCHANGE,
        topology.ORDER_CREATED,
        join_orders(map(encode_order, orders)),
        orders=len(orders),
        schema=schema_of_all(orders),
    )
    if outcome is not Outcome.CONFIRMED:
        what = f"the broker did not confirm {len(rows)} orders ({outcome.value}); {sent} were sent before"
        raise HeadraceError(what, CAUSES[outcome], AGAIN)


async def _declare_without_backlog(channel: AbstractChannel) -> None:
    queue = await topology.declare_created(channel)
    waiting = queue.declaration_result.message_count or 0
    if waiting > BACKLOG_MESSAGES:
        raise HeadraceError(
            f"{waiting} messages wait in {queue.name}",
            "product_consumer is behind or away; orders without a verdict may be among these messages already",
            "./headrace logs product_consumer; once it has caught up: ./headrace verify --repair",
        )


async def _chunks(ids: AsyncIterator[str]) -> AsyncGenerator[list[str], None]:
    chunk: list[str] = []
    async for id_ in ids:
        chunk.append(id_)
        if len(chunk) == MESSAGE_ORDERS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
