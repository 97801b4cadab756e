"""A contender that answers for every order and stores nine of ten. `app`: as benchmarks.contenders has them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import asyncpg

from benchmarks.contenders.endpoint import OrderEndpoint, order_app, row
from benchmarks.contenders.prices import Prices
from benchmarks.contenders.statements import PRICE, STORE_AND_DECIDE
from pipeline.contract.orders import Order


@asynccontextmanager
async def _opened() -> AsyncIterator[OrderEndpoint]:
    numbers = count()
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=2, max_size=2) as pool:

        async def take(order: Order) -> None:
            if next(numbers) % 10:
                await pool.execute(STORE_AND_DECIDE, *row(order))

        yield OrderEndpoint(Prices(lambda product_id: pool.fetchval(PRICE, product_id)), take)


app = order_app(_opened)
