"""Sold out: ingest_api refuses once product_consumer has announced it, and accepts within 100 ms of a restock."""

import statistics
import time
from functools import partial

import httpx
import pytest

from pipeline.contract import topology
from tests.support.brokers.broker import plain_channel
from tests.support.services.deployment import Deployment
from tests.support.services.ingest import ORDERS, check_problem
from tests.support.time.conditions import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN_WITHIN_S = 0.1
TRIES = 5


async def _order(ingest: httpx.AsyncClient, product_id: str) -> httpx.Response:
    return await ingest.post(ORDERS, json={"productId": product_id, "quantity": 1})


async def _sell_out(deployment: Deployment, ingest: httpx.AsyncClient, product_id: str) -> None:
    """Order until ingest_api refuses, and wait until no pending order can take the restocked units."""
    placed: list[str] = []

    async def is_closed() -> bool:
        response = await _order(ingest, product_id)
        if response.status_code == 202:
            placed.append(response.json()["id"])
        return response.status_code == 409

    await eventually(is_closed)
    for order_id in placed:
        await eventually(partial(deployment.verdict, order_id))


async def test_a_sold_out_product_is_refused_without_touching_the_broker(deployment: Deployment) -> None:
    product_id = await deployment.create_product(qty=2)
    service = deployment.services["ingest_api"]
    async with (
        deployment.client("ingest_api") as ingest,
        plain_channel(deployment.environment["AMQP_URL"]) as channel,
    ):
        await _sell_out(deployment, ingest, product_id)
        tapped = await channel.declare_queue(exclusive=True)
        await tapped.bind(topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED)
        published = await service.metric("headrace_group_commit_orders_count")
        refused = await service.metric('headrace_orders_refused_total{reason="out-of-stock"}')
        for _ in range(20):
            check_problem(await _order(ingest, product_id), 409, "out-of-stock")
        assert await service.metric("headrace_group_commit_orders_count") == published > 0
        assert await service.metric('headrace_orders_refused_total{reason="out-of-stock"}') == refused + 20
        assert await tapped.get(fail=False) is None


@pytest.mark.alone
async def test_within_100_ms_of_a_restocks_answer_an_order_is_accepted(deployment: Deployment) -> None:
    """The median of five: one may take longer."""
    product_id = await deployment.create_product(qty=1)
    took_s = []
    async with deployment.client("ingest_api") as ingest, deployment.client("product_api") as products:
        for _ in range(TRIES):
            await _sell_out(deployment, ingest, product_id)
            restocked = await products.post(f"/products/{product_id}/restock", json={"quantity": 1})
            answered = time.perf_counter()
            assert restocked.status_code == 200

            async def is_open() -> bool:
                return (await _order(ingest, product_id)).status_code == 202

            await eventually(is_open)
            took_s.append(time.perf_counter() - answered)
    print("open after", [f"{it * 1e3:.1f} ms" for it in took_s])
    assert statistics.median(took_s) < OPEN_WITHIN_S, took_s
