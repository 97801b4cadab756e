"""Gives persist_worker its input, and reads what it has stored, parked and forwarded."""

from pipeline.contract import topology
from pipeline.contract.orders import Order
from tests.support.brokers.broker import plain_channel, send, send_orders
from tests.support.services.workers import DeadRow, connected, dead_letters, stored_orders


async def accept(environment: dict[str, str], *messages: list[Order]) -> None:
    """Publish each list as one message, as ingest_api does."""
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        for orders in messages:
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, *orders)


async def accept_raw(environment: dict[str, str], body: bytes, **headers: object) -> None:
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        await send(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, body, headers={"schema": 1, **headers})


async def forwarded(environment: dict[str, str]) -> list[bytes]:
    """Take the bodies that wait for product_consumer off their queue."""
    queue = topology.ORDERS_CREATED_QUEUE
    bodies = []
    async with plain_channel(environment["AMQP_URL"]) as channel:
        plain = await channel.get_queue(queue, ensure=False)
        while (message := await plain.get(fail=False)) is not None:
            bodies.append(message.body)
            await message.ack()
    return bodies


async def stored(environment: dict[str, str]) -> dict[str, tuple[str, int]]:
    async with connected(environment["DATABASE_URL"]) as connection:
        return await stored_orders(connection)


async def parked(environment: dict[str, str]) -> list[DeadRow]:
    async with connected(environment["DATABASE_URL"]) as connection:
        return await dead_letters(connection)
