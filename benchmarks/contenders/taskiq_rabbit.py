"""FastAPI + taskiq on RabbitMQ. `app` is the API; taskiq's worker runs `broker`, whose task stores and decides."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
from fastapi import FastAPI, Request
from taskiq import Context, SimpleRetryMiddleware, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq.serializers import ORJSONSerializer
from taskiq_aio_pika import AioPikaBroker

from benchmarks.contenders.models import NewOrder, Order
from benchmarks.contenders.prices import Prices
from benchmarks.contenders.statements import PRICE, STORE_AND_DECIDE

_POOL = 8
_PREFETCH = 32

# Its queue is a durable quorum queue, its messages are persistent and its channel has confirms: taskiq's own defaults.
broker = (
    AioPikaBroker(os.environ["AMQP_URL"], qos=_PREFETCH)
    .with_serializer(ORJSONSerializer())
    .with_middlewares(SimpleRetryMiddleware())
)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def _open(state: TaskiqState) -> None:
    state.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=_POOL, max_size=_POOL)


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def _close(state: TaskiqState) -> None:
    await state.pool.close()


@broker.task(task_name="store_order", retry_on_error=True)
async def store_order(order: Order, context: Annotated[Context, TaskiqDepends()]) -> None:
    await context.state.pool.execute(STORE_AND_DECIDE, *order.row())


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=2, max_size=4) as pool:
        app.state.prices = Prices(lambda product_id: pool.fetchval(PRICE, product_id))
        await broker.startup()
        yield
        await broker.shutdown()


app = FastAPI(lifespan=_lifespan)


@app.get("/readyz")
async def ready() -> None:
    """It serves."""


@app.post("/api/v1/orders", status_code=202)
async def create_order(new: NewOrder, request: Request) -> Order:
    order = new.priced(await request.app.state.prices.of(new.product_id))
    await store_order.kiq(order)
    return order
