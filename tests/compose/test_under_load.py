"""Under load: workers are added, crash and are removed, the broker restarts, and the stack goes down and up."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from product_api.requests import MAX_QTY
from tests.chaos.scene.attempts import PRICE, Verdict, some_orders
from tests.chaos.scene.client import Client, ordering
from tests.compose.composed import ComposeStack
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

ORDERS = "/api/v1/orders"
PER_S = 200.0
_READS_AT_ONCE = 32


@asynccontextmanager
async def under_load(composed: ComposeStack, seed: int) -> AsyncIterator[Client]:
    """Send orders through the proxy at a pace. The block begins once the first is accepted."""
    client = Client(await composed.url("proxy", 8080))
    products = await make_products(await composed.url("proxy", 3000))
    async with ordering(client, some_orders(random.Random(seed), products, keyed=0.1), PER_S):
        await eventually(lambda: any(it.verdict is Verdict.OK for it in client.attempts), 30)
        yield client
    client.close()


async def make_products(url: str) -> list[str]:
    async with httpx.AsyncClient(base_url=url, timeout=15) as http:
        made = [await http.post("/products", json={"name": "x", "price": PRICE, "qty": MAX_QTY}) for _ in range(20)]
    return [it.json()["id"] for it in made]


async def goes_on(client: Client, orders: int) -> None:
    """Wait until this many more orders were accepted."""
    until = accepted(client) + orders
    await eventually(lambda: accepted(client) >= until, 60, 0.2)


def accepted(client: Client) -> int:
    return sum(it.verdict is Verdict.OK for it in client.attempts)


async def account(composed: ComposeStack, client: Client) -> None:
    """P1 to P4: each accepted order is stored and decided, and stock adds up."""
    ids = [it.told for it in client.attempts if it.verdict is Verdict.OK]
    assert len(ids) == len(set(ids)) > 1000
    url, places = await composed.url("proxy", 8080), asyncio.Semaphore(_READS_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:

        async def status(order_id: str) -> str:
            async with places:
                answer = await http.get(f"{ORDERS}/{order_id}", params={"wait": 30})
            return str(answer.json()["status"]) if answer.status_code == 200 else f"{answer.status_code}"

        found = await asyncio.gather(*map(status, ids))
    assert set(found) == {"PROCESSED"}
    report = json.loads(await composed.headrace("verify", "--json"))
    assert report["clean"], report


@pytest.mark.deep
async def test_p1_p2_p3_workers_come_crash_and_go_and_the_broker_restarts(composed: ComposeStack) -> None:
    async with under_load(composed, 1) as client:
        await composed.scale(persist_worker=4, product_consumer=3)
        await goes_on(client, 500)
        for name in ("persist_worker", "product_consumer"):
            await composed.crash((await composed.of(name))[0])
            await goes_on(client, 300)
        await composed.scale(persist_worker=1, product_consumer=1)
        await goes_on(client, 300)
        await composed.compose("restart", "rabbitmq")
        await composed.until_ready("rabbitmq", 1)
        await goes_on(client, 500)
    await account(composed, client)


async def test_p1_two_ingest_apis_share_the_orders_and_one_crashes(composed: ComposeStack) -> None:
    try:
        await composed.scale(ingest_api=2)
        async with under_load(composed, 2) as client:
            await goes_on(client, 500)
            ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
            replicas = await composed.of("ingest_api")

            async def both_have_some() -> bool:
                told = [await composed.inside(it, ask) for it in replicas]
                return all("headrace_orders_accepted_total 0.0" not in it for it in told)

            await eventually(both_have_some, 30, 1)
            await composed.crash(replicas[0])
            await goes_on(client, 500)
        await account(composed, client)
    finally:
        await composed.scale(ingest_api=1)


async def test_p1_all_of_it_down_and_up_again_has_what_it_had(composed: ComposeStack) -> None:
    async with under_load(composed, 3) as client:
        await goes_on(client, 1100)
    await composed.headrace("down")
    assert await composed.all() == []
    await composed.headrace("up", "--docker", "--detach")
    await account(composed, client)
