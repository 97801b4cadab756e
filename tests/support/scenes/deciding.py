"""Gives product_consumer its input, and reads the product events that it publishes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

from aio_pika.abc import AbstractQueue

from pipeline.contract import topology
from pipeline.contract.orders import Order
from pipeline.contract.product_events import ProductEvent, decode_event
from tests.support.brokers.broker import plain_channel, send, send_orders


async def create(environment: dict[str, str], *messages: list[Order]) -> None:
    """Publish each list as one message, as persist_worker does."""
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_created(channel)
        for orders in messages:
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_CREATED, *orders)


async def create_raw(environment: dict[str, str], body: bytes, **headers: object) -> None:
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_created(channel)
        await send(channel, topology.ORDERS_EXCHANGE, topology.ORDER_CREATED, body, headers={"schema": 1, **headers})


@asynccontextmanager
async def product_events(environment: dict[str, str]) -> AsyncIterator[AbstractQueue]:
    """A queue of the product events that an ingest_api gets."""
    async with plain_channel(environment["AMQP_URL"]) as channel:
        yield await topology.declare_product_events(channel)


async def heard(queue: AbstractQueue) -> list[tuple[str | None, ProductEvent]]:
    """Routing keys and events so far. Announcements are confirmed before a batch ends, so none of it is missing."""
    events = []
    while message := await queue.get(no_ack=True, fail=False):
        events.append((message.routing_key, decode_event(message.body)))
    return events


def sold_out(product_id: str, version: int) -> tuple[str, ProductEvent]:
    return topology.PRODUCT_SOLD_OUT, ProductEvent(product_id, version, Decimal("12.50"), 0)
