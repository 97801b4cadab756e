"""`verify --repair`: sends orders without a verdict, and forgotten cancellations, to product_consumer again.

It changes nothing else. It is safe to repeat at any time. product_consumer drops orders that are decided, and the
ledger's primary key guarantees it. A cancellation that comes again finds its row, and is settled once.

The message is the one that persist_worker or ingest_api sent, without the trace context, which no table has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from aio_pika.abc import AbstractChannel, AbstractQueue

from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.contract.cancellations import SCHEMA, Cancellation, encode_cancellation
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
from proof.audit_sql import forgotten, late_ids
from proof.offenders import CancelWait
from stack.errors import HeadraceError
from stack.operate.publishing import CAUSES, publishing

T = TypeVar("T")

# Orders that are read at once.
CHUNK_ORDERS = 1_000
# The size of persist_worker's largest batches; some 300 kB. A basket is never parted.
MESSAGE_LINES = 1_000
# The size of product_consumer's largest batches. Some 100 kB; 900 kB if every reason is as long as it can be.
MESSAGE_CANCELLATIONS = 500
# Three times product_consumer's prefetch: above it, what is late is still in the queue, and would be there twice.
BACKLOG_MESSAGES = 100

AGAIN = "./headrace verify --repair, again: what is sent twice is settled once"

_ORDERS = f"""
    SELECT {selected((*COLUMNS, *OF_BASKET), "orders")} FROM orders WHERE id = ANY($1::uuid[])
    ORDER BY accepted_at, id, line
"""


class Message(NamedTuple):
    order_ids: list[str]
    """Of the orders; or of the orders that the cancellations name."""
    body: bytes
    schema: int


@dataclass(frozen=True, slots=True)
class Road:
    """Where messages of one kind go."""

    what: str
    """Is sent, in the plural."""
    late: str
    """What may be in the queue already."""
    routing_key: str
    declare: Callable[[AbstractChannel], Awaitable[AbstractQueue]]

    async def declare_without_backlog(self, channel: AbstractChannel) -> None:
        """Raises HeadraceError if product_consumer has a backlog to work through first."""
        queue = await self.declare(channel)
        waiting = queue.declaration_result.message_count or 0
        if waiting > BACKLOG_MESSAGES:
            raise HeadraceError(
                f"{waiting} messages wait in {queue.name}",
                f"product_consumer is behind or away; {self.late} may be among these messages already",
                "./headrace logs product_consumer; once it has caught up: ./headrace verify --repair",
            )


ORDERS = Road("orders", "orders without a verdict", topology.ORDER_CREATED, topology.declare_created)
CANCELLATIONS = Road(
    "cancellations",
    "cancellations that wait",
    topology.ORDER_CANCEL_REQUESTED,
    topology.declare_cancel_requested,
)


def message_of_orders(orders: Iterable[AnyOrder]) -> Message:
    them = list(orders)
    return Message([it.id for it in them], join_orders(map(encode_order, them)), schema_of_all(them))


def message_of_cancellations(waits: Iterable[CancelWait]) -> Message:
    them = [Cancellation(it.id, it.requested_at, it.client, it.sees_all, it.reason) for it in waits]
    return Message([it.order_id for it in them], join_orders(map(encode_cancellation, them)), SCHEMA)


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
    return await _send_all(connection, amqp_url, ORDERS, _late_orders(connection, lag_s))


async def resend_cancellations(connection: Connection, amqp_url: str, lag_s: float) -> list[str]:
    """Resend each cancellation that has waited for longer than `lag_s` although its order is decided.

    Returns the order's id for each. Raises HeadraceError as `resend` does.
    """
    return await _send_all(connection, amqp_url, CANCELLATIONS, _forgotten_cancellations(connection, lag_s))


async def _send_all(
    connection: Connection, amqp_url: str, road: Road, found: AsyncGenerator[Message, None]
) -> list[str]:
    """Send every message that is `found` in one snapshot. Returns the ids in them."""
    async with connection.transaction(isolation="repeatable_read", readonly=True), aclosing(found) as messages:
        message = await anext(messages, None)
        if message is None:
            return []  # without asking for a broker
        sent: list[str] = []
        async with publishing(amqp_url, "verify", road.declare_without_backlog) as publisher:
            while message is not None:
                await _send(publisher, road, message, len(sent))
                sent += message.order_ids
                message = await anext(messages, None)
        return sent


async def _send(publisher: Publisher, road: Road, message: Message, sent: int) -> None:
    size = len(message.order_ids)
    outcome = await publisher.publish(
        topology.ORDERS_EXCHANGE, road.routing_key, message.body, orders=size, schema=message.schema
    )
    if outcome is not Outcome.CONFIRMED:
        what = f"the broker did not confirm {size} {road.what} ({outcome.value}); {sent} were sent before"
        raise HeadraceError(what, CAUSES[outcome], AGAIN)


async def _late_orders(connection: Connection, lag_s: float) -> AsyncGenerator[Message, None]:
    async for ids in _chunks(late_ids(connection, lag_s), CHUNK_ORDERS):
        for orders in in_messages(orders_of(await connection.fetch(_ORDERS, ids))):
            yield message_of_orders(orders)


async def _forgotten_cancellations(connection: Connection, lag_s: float) -> AsyncGenerator[Message, None]:
    async for waits in _chunks(forgotten(connection, lag_s), MESSAGE_CANCELLATIONS):
        yield message_of_cancellations(waits)


async def _chunks(items: AsyncIterator[T], size: int) -> AsyncGenerator[list[T], None]:
    chunk: list[T] = []
    async for it in items:
        chunk.append(it)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
