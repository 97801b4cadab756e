"""`verify --repair`: sends orders without a verdict to product_consumer again, and changes nothing else.

Safe to repeat at any time: product_consumer drops orders that are decided, and the ledger's primary key guarantees it.
The message is the one that persist_worker sent, without the trace context, which no table has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing

from aio_pika.abc import AbstractChannel

from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.contract.columns import selected
from pipeline.contract.order_rows import orders_of
from pipeline.contract.orders import (
    COLUMNS,
    OF_BASKET,
    AnyOrder,
    encode_order,
    join_orders,
    lines_of,
    schema_of_all,
)
from proof.accounting_sql import Connection
from proof.audit_sql import late_ids
from stack.errors import HeadraceError
from stack.operate.publishing import CAUSES, publishing

# Orders that are read at once.
CHUNK_ORDERS = 1_000
# The size of persist_worker's largest batches; some 300 kB. A basket is never parted.
MESSAGE_LINES = 1_000
# Three times product_consumer's prefetch: above it, late orders are still in the queue, and would be there twice.
BACKLOG_MESSAGES = 100

AGAIN = "./headrace verify --repair, again: an order that is sent twice is decided once"

_ORDERS = f"""
    SELECT {selected((*COLUMNS, *OF_BASKET), "orders")} FROM orders WHERE id = ANY($1::uuid[])
    ORDER BY accepted_at, id, line
"""


def in_messages(orders: Iterable[AnyOrder]) -> Iterator[list[AnyOrder]]:
    """Split orders into messages of at most MESSAGE_LINES lines."""
    message: list[AnyOrder] = []
    room = MESSAGE_LINES
    for order in orders:
        lines = len(lines_of(order))
        if lines > room:
            yield message
            message, room = [], MESSAGE_LINES
        message.append(order)
        room -= lines
    if message:
        yield message


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
                for orders in in_messages(orders_of(await connection.fetch(_ORDERS, chunk))):
                    await _send(publisher, orders, len(sent))
                    sent += [it.id for it in orders]
                chunk = await anext(chunks, None)
        return sent


async def _send(publisher: Publisher, orders: Sequence[AnyOrder], sent: int) -> None:
    outcome = await publisher.publish(
        topology.ORDERS_EXCHANGE,
        topology.ORDER_CREATED,
        join_orders(map(encode_order, orders)),
        orders=len(orders),
        schema=schema_of_all(orders),
    )
    if outcome is not Outcome.CONFIRMED:
        what = f"the broker did not confirm {len(orders)} orders ({outcome.value}); {sent} were sent before"
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
        if len(chunk) == CHUNK_ORDERS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
