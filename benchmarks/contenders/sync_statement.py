"""What PostgreSQL alone can do for one order at a time: price, order, stock and verdict in one statement, no broker."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.contenders.endpoint import OrderEndpoint, order_app, row
from benchmarks.contenders.prices import Prices
from benchmarks.contenders.statements import PRICE, STORE_AND_DECIDE
from pipeline.contract.orders import Order

_POOL = 20


@asynccontextmanager
async def _opened() -> AsyncIterator[OrderEndpoint]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=_POOL, max_size=_POOL) as pool:

        async def take(order: Order) -> None:
            await pool.execute(STORE_AND_DECIDE, *row(order))

        yield OrderEndpoint(Prices(lambda product_id: pool.fetchval(PRICE, product_id)), take)


app = order_app(_opened)
