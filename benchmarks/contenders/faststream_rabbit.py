"""FastAPI + FastStream on RabbitMQ. `app` is the API, `worker` stores the orders and decides them."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
from fastapi import FastAPI, Request
from faststream import AckPolicy, Context, ContextRepo, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from benchmarks.contenders.models import NewOrder, Order
from benchmarks.contenders.prices import Prices
from benchmarks.contenders.statements import PRICE, STORE_AND_DECIDE

_POOL = 8
_QUEUE = RabbitQueue("orders", queue_type=QueueType.QUORUM, durable=True)
# Messages are handled as they come, so the prefetch is how many at once.
_PREFETCH = 32

broker = RabbitBroker(
    os.environ["AMQP_URL"],
    default_channel=Channel(prefetch_count=_PREFETCH, on_return_raises=True),
    log_level=logging.DEBUG,  # two lines for each message are only written if somebody asks for them
)


@asynccontextmanager
async def _pool(context: ContextRepo) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=_POOL, max_size=_POOL) as pool:
        context.set_global("pool", pool)
        yield


worker = FastStream(broker, lifespan=_pool)


@broker.subscriber(_QUEUE, ack_policy=AckPolicy.NACK_ON_ERROR)
async def store_order(order: Order, pool: Annotated[asyncpg.Pool, Context()]) -> None:
    await pool.execute(STORE_AND_DECIDE, *order.row())


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=2, max_size=4) as pool:
        app.state.prices = Prices(lambda product_id: pool.fetchval(PRICE, product_id))
        await broker.connect()
        await broker.declare_queue(_QUEUE)
        yield
        await broker.stop()


app = FastAPI(lifespan=_lifespan)


@app.get("/readyz")
async def ready() -> None:
    """It serves."""


@app.post("/api/v1/orders", status_code=202)
async def create_order(new: NewOrder, request: Request) -> Order:
    order = new.priced(await request.app.state.prices.of(new.product_id))
    await broker.publish(order, _QUEUE, persist=True)
    return order
