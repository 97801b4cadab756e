"""The old design with its defaults, in this stack: INSERT, publish, DEL, each awaited in the request.

`app` is the order service. `python -m benchmarks.contenders.sync_seed` is the consumer that moves stock.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import uvloop
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.contenders.broker import CREATED, declare
from benchmarks.contenders.endpoint import OrderEndpoint, order_app, row
from benchmarks.contenders.prices import Prices
from benchmarks.contenders.statements import INSERT_ORDER, PRICE
from pipeline.contract.orders import Order, decode_order, encode_order

# The default of Go's database/sql: so many stay open when idle, and there is no limit on how many are open at once.
_MAX_IDLE = 2
# The default of Go's Redis client, on two cores.
_REDIS_CONNECTIONS = 20


class UnlimitedPool:
    """Go's database/sql with its defaults: a request that finds no idle connection opens a new one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[asyncpg.Connection[asyncpg.Record]] = []

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        connection = self._idle.pop() if self._idle else await asyncpg.connect(self._url)
        try:
            yield connection
        finally:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
            else:
                await connection.close()

    async def execute(self, statement: str, *parameters: Any) -> None:
        async with self.acquire() as connection:
            await connection.execute(statement, *parameters)

    async def price(self, product_id: UUID) -> Decimal | None:
        async with self.acquire() as connection:
            price: Decimal | None = await connection.fetchval(PRICE, product_id)
            return price


@asynccontextmanager
async def _opened() -> AsyncIterator[OrderEndpoint]:
    database = UnlimitedPool(os.environ["DATABASE_URL"])
    redis = Redis(
        connection_pool=BlockingConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=_REDIS_CONNECTIONS)
    )
    async with await aio_pika.connect(os.environ["AMQP_URL"]) as amqp, redis:
        exchange, _ = await declare(await amqp.channel(publisher_confirms=False), "classic")

        async def take(order: Order) -> None:
            await database.execute(INSERT_ORDER, *row(order))
            # Transient, without a publisher confirm.
            await exchange.publish(aio_pika.Message(encode_order(order), message_id=order.id), CREATED)
            await redis.delete(f"orders:{order.product_id}")

        yield OrderEndpoint(Prices(database.price), take)


app = order_app(_opened)


async def _consume() -> None:
    """One message at a time: read the stock, change it, write it, without a lock. An error acknowledges the message."""
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    async with await aio_pika.connect(os.environ["AMQP_URL"]) as amqp:
        _, queue = await declare(await amqp.channel(), "classic")
        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process(requeue=False):
                    order = decode_order(message.body)
                    assert isinstance(order, Order)
                    await _move_stock(database, order)


async def _move_stock(database: "asyncpg.Connection[asyncpg.Record]", order: Order) -> None:
    qty = await database.fetchval("SELECT qty FROM products WHERE id = $1", order.product_id)
    if qty is None or qty < order.quantity:
        return  # the order stays PENDING for ever
    await database.execute("UPDATE products SET qty = $2 WHERE id = $1", order.product_id, qty - order.quantity)
    await database.execute(
        "INSERT INTO stock_ledger (order_id, product_id, quantity, outcome) VALUES ($1, $2, $3, 'PROCESSED')",
        order.id,
        order.product_id,
        order.quantity,
    )


if __name__ == "__main__":
    uvloop.run(_consume())
