"""FastAPI + Celery on RabbitMQ. The API publishes a task; a worker's task stores the order and decides it.

`app` is the API, `celery` what the worker runs.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import asyncpg
import psycopg
from celery import Celery
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from psycopg_pool import ConnectionPool

from benchmarks.contenders.models import NewOrder, Order
from benchmarks.contenders.prices import Prices
from benchmarks.contenders.statements import PRICE, STORE_AND_DECIDE

celery = Celery("orders", broker=os.environ["AMQP_URL"])
celery.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=40,
    task_default_queue_type="quorum",
    task_default_exchange_type="topic",
    task_default_delivery_mode="persistent",
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=64,
    worker_concurrency=2,
)

# psycopg's placeholders are %s, in the order of asyncpg's $1 to $6.
_STORE_AND_DECIDE = STORE_AND_DECIDE
for _number in range(1, 7):
    _STORE_AND_DECIDE = _STORE_AND_DECIDE.replace(f"${_number}", "%s")


@cache
def _database() -> ConnectionPool:
    """One connection for each prefork process, made after the fork, and made anew when it breaks."""
    return ConnectionPool(os.environ["DATABASE_URL"], min_size=1, max_size=8, kwargs={"autocommit": True}, open=True)


@celery.task(name="store_order", autoretry_for=(psycopg.OperationalError,), retry_backoff=True, max_retries=None)
def store_order(order: dict[str, Any]) -> None:
    with _database().connection() as connection:
        connection.execute(_STORE_AND_DECIDE, Order(**order).row())


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=2, max_size=4) as pool:
        app.state.prices = Prices(lambda product_id: pool.fetchval(PRICE, product_id))
        yield


app = FastAPI(lifespan=_lifespan)


@app.get("/readyz")
async def ready() -> None:
    """It serves."""


@app.post("/api/v1/orders", status_code=202)
async def create_order(new: NewOrder, request: Request) -> Order:
    order = new.priced(await request.app.state.prices.of(new.product_id))
    await run_in_threadpool(store_order.apply_async, (order.model_dump(mode="json"),))
    return order
