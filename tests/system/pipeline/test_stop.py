"""Each process is stopped or killed under load, and started again: nothing is lost or duplicated."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from proof.load_result import LoadResult
from tests.support.clients.load import Load, loading
from tests.support.data.products import Audit
from tests.support.services.deployment import SERVICES, Deployment
from tests.support.time.conditions import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = ("persist_worker", "product_consumer")
GRACE_S = 15.0


@pytest.mark.parametrize("name", SERVICES)
async def test_a_stop_under_load_loses_nothing_and_exits_0(deployment: Deployment, name: str) -> None:
    """P9."""
    products = await some_products(deployment)
    async with loading(deployment.url("ingest_api"), products) as load, restocking(deployment, products) as restocks:
        await more_answers(load, restocks)
        log = deployment.services[name].log
        started = time.monotonic()
        assert await deployment.stop(name) == 0
        assert time.monotonic() - started < GRACE_S
        assert '"event":"stopped"' in log()
        assert '"level":"error"' not in log()
        assert "with a batch in hand" not in log()
        await deployment.start(name)
        await more_answers(load, restocks)
        result = await load.end()
    check_answers(result, name)
    assert await deployment.check_books(result, *products) == 0, "a request without an answer has left an order"
    await check_restocks(deployment, restocks)


@pytest.mark.parametrize("name", SERVICES)
async def test_a_kill_under_load_loses_nothing_and_repeats_nothing(deployment: Deployment, name: str) -> None:
    """P1, P2."""
    products = await some_products(deployment)
    async with loading(deployment.url("ingest_api"), products) as load, restocking(deployment, products) as restocks:
        await more_answers(load, restocks)
        assert await deployment.stop(name, signal.SIGKILL) == -signal.SIGKILL
        await deployment.start(name)
        await more_answers(load, restocks)
        result = await load.end()
    check_answers(result, name)
    await deployment.check_books(result, *products)
    await check_restocks(deployment, restocks)


async def test_workers_that_start_on_a_backlog_work_it_off(deployment: Deployment) -> None:
    products = await some_products(deployment)
    assert [await deployment.stop(name) for name in WORKERS] == [0, 0]
    async with loading(deployment.url("ingest_api"), products, orders=4_000) as load:
        result = await load.all()
    assert result.by_status() == {202: 4_000}
    assert await deployment.outcomes(*products) == {}
    await asyncio.gather(*map(deployment.start, WORKERS))
    assert await deployment.check_books(result, *products) == 0
    assert set((await deployment.outcomes(*products)).values()) == {"PROCESSED"}


async def test_killing_both_workers_again_and_again_repeats_nothing(deployment: Deployment) -> None:
    """P2: a redelivered order may or may not have been written, forwarded or decided before."""
    products = await some_products(deployment)
    async with loading(deployment.url("ingest_api"), products) as load:
        for _ in range(3):
            await load.more(200)
            for name in WORKERS:
                await deployment.stop(name, signal.SIGKILL)
            await asyncio.gather(*map(deployment.start, WORKERS))
        result = await load.end()
    assert set(result.by_status()) == {202}
    assert await deployment.check_books(result, *products) == 0


def check_answers(result: LoadResult[None], replaced: str) -> None:
    """Only clients of the replaced process notice: by a broken connection, or by a 503 before it has a broker."""
    expected = {202, 503, 0} if replaced == "ingest_api" else {202}
    assert set(result.by_status()) <= expected, result.samples
    assert b"/broker-unavailable" in result.samples.get(503, b"/broker-unavailable")


async def some_products(deployment: Deployment) -> list[str]:
    return [await deployment.create_product(qty=1_000_000) for _ in range(5)]


# ── the other side: somebody who restocks


@dataclass
class Restocks:
    """The answers to a client that restocks one product by one unit at a time."""

    product_id: str
    done: int = 0
    unknown: int = 0


@asynccontextmanager
async def restocking(deployment: Deployment, products: list[str]) -> AsyncIterator[Restocks]:
    """Restock the first product until the block ends. Then the record is final."""
    restocks = Restocks(products[0])
    ended = asyncio.Event()
    task = asyncio.create_task(_restock(deployment, restocks, ended))
    try:
        yield restocks
    finally:
        ended.set()
        await task


async def _restock(deployment: Deployment, restocks: Restocks, ended: asyncio.Event) -> None:
    async with deployment.client("product_api") as client:

        async def is_back() -> bool:
            try:
                return ended.is_set() or (await client.get("/livez")).status_code == 200
            except httpx.TransportError:
                return False

        while not ended.is_set():
            try:
                response = await client.post(f"/products/{restocks.product_id}/restock", json={"quantity": 1})
            except httpx.ConnectError:
                await eventually(is_back)
            except httpx.TransportError:
                restocks.unknown += 1
            else:
                if response.status_code == 503:  # the product's row was locked for longer than the service waits
                    assert response.json()["type"] == "/docs/problems/store-unavailable"
                    restocks.unknown += 1
                    continue
                assert response.status_code == 200, response.text
                restocks.done += 1


async def check_restocks(deployment: Deployment, restocks: Restocks) -> None:
    """Assert that each answered restock is stored once."""
    reasons = [reason for _, reason in await Audit(deployment.connection).adjustments(restocks.product_id)]
    assert restocks.done <= reasons.count("restock") <= restocks.done + restocks.unknown


async def more_answers(load: Load, restocks: Restocks) -> None:
    """Wait until orders and restocks go on."""
    done = restocks.done
    await load.more(300)
    await eventually(lambda: restocks.done > done + 5)
