"""Generates accepted orders without clients, as ingest_api would have published them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count, islice

import aio_pika
import aiormq
from pamqp.commands import Basic

from benchmarks.run.deployment import ORDER_ID_KEY
from pipeline.contract import topology
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import SCHEMA, Order, encode_order, join_orders

_PRICE = Decimal("12.50")


def accepted_orders(products: list[str]) -> Iterator[Order]:
    """Endless orders, product after product."""
    ids = OrderIds(ORDER_ID_KEY)
    for place in count():
        product = products[place % len(products)]
        yield Order(ids.mint(), product, 1, _PRICE, _PRICE, datetime.now(UTC), "PENDING")


def take(orders: Iterator[Order], number: int) -> tuple[bytes, list[str]]:
    """The next `number` orders as the body of one message, and their ids."""
    taken = list(islice(orders, number))
    return join_orders(map(encode_order, taken)), [order.id for order in taken]


# ── I/O below


class Wire:
    """A channel with confirms, and the queue that ingest_api publishes to."""

    def __init__(self, channel: aiormq.Channel) -> None:
        self._channel = channel

    async def publish(self, body: bytes, orders: int) -> None:
        """One message with the same flags as ingest_api's; returns when it is confirmed."""
        await self._channel.basic_publish(
            body,
            exchange=topology.ORDERS_EXCHANGE,
            routing_key=topology.ORDER_ACCEPTED,
            properties=Basic.Properties(
                content_type="application/json", delivery_mode=2, headers={"schema": SCHEMA, "orders": orders}
            ),
            mandatory=True,
            wait=False,
        )


@asynccontextmanager
async def wire(amqp_url: str) -> AsyncIterator[Wire]:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await topology.declare_accepted(channel)
        underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, aiormq.Channel)
        yield Wire(underlay)


async def fill_queue(amqp_url: str, products: list[str], number: int, group: int, in_flight: int) -> list[str]:
    """Publish `number` orders in messages of `group`, so many in flight at once. Returns their ids."""
    ids: list[str] = []
    orders = accepted_orders(products)
    left = iter([group] * (number // group) + [number % group] * bool(number % group))

    async def publish(to: Wire) -> None:
        for size in left:
            body, new = take(orders, size)
            await to.publish(body, size)
            ids.extend(new)

    async with wire(amqp_url) as to, asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(publish(to))
    return ids
