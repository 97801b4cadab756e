"""Somebody keeps the event log, or one of its readers, waiting. Nobody else waits, and nobody skips an event."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from persist_worker.write import prepare, write
from pipeline.contract.orders import Order
from product_consumer.ledger import record
from tests.chaos.scene.attempts import PRICE
from tests.chaos.scene.event_reading import trickle
from tests.chaos.scene.followed import PROMPT_S, Followed, assert_prompt
from tests.chaos.scene.scene import QTY, BreakableScene
from tests.support.brokers.broker import running_task
from tests.support.data.orders import order
from tests.support.services.ingest import insert_product
from tests.support.services.workers import connected

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_STALLED_ORDERS = 20


@pytest.mark.parametrize("stalled_s", [5, pytest.param(20, marks=pytest.mark.deep)])
@pytest.mark.scenario("23", "a transaction that has decided 20 orders stays open for {stalled_s} s")
async def test_p11_a_committer_that_stalls_delays_its_own_events_alone(
    scene: BreakableScene, followed: Followed, stalled_s: int
) -> None:
    """P11: a cursor that passed the open transaction would skip its events; one that waited would delay all others."""
    await followed.add_hook()
    # Of a product that nobody else buys: its row is locked until the commit.
    product_id = await insert_product(scene.database_url, PRICE, QTY)
    async with followed.under_load():
        orders = [order(product_id, price=PRICE) for _ in range(_STALLED_ORDERS)]
        async with decided_and_open(scene, orders):
            since_s = time.time()
            await scene.goes_on(stalled_s)
            until_s = time.time() - PROMPT_S
            early = [reader.name for reader in followed.readers if not reader.book.last.keys().isdisjoint(_ids(orders))]
        scene.over()
        await scene.recovers()
    scene.products.append(product_id)
    scene.names_fault = False  # nothing is late that was committed, so there is nothing to tell
    await scene.check()
    assert early == []
    for reader in followed.readers:
        assert_prompt(reader, since_s, until_s)


@asynccontextmanager
async def decided_and_open(scene: BreakableScene, orders: list[Order]) -> AsyncIterator[None]:
    """Store orders, decide them as product_consumer does, and commit that at the end of the block."""
    async with connected(scene.database_url) as connection:
        await prepare(connection)
        await write(connection, orders, [])
        for it in orders:
            scene.was_accepted(it)
        async with connection.transaction():
            await record(connection, orders, [])
            yield


def _ids(orders: list[Order]) -> set[str]:
    return {it.id for it in orders}


@pytest.mark.deep
@pytest.mark.scenario("27", "a client reads its stream of events one byte a second")
async def test_p11_a_client_that_hardly_reads_delays_nobody(scene: BreakableScene, followed: Followed) -> None:
    """P11, P8: ingest_api holds little for it, and drops it in the end."""
    got = bytearray()
    await followed.add_hook()
    async with followed.under_load():
        async with running_task(trickle(scene.deployment.url("ingest_api"), got.extend)):
            since_s = time.time()
            await scene.goes_on(25)
            until_s = time.time() - PROMPT_S
        scene.over()
        await scene.recovers()
    scene.names_fault = False  # a client that does not read is its own fault, and a count of closed streams
    await scene.check()
    assert got.startswith(b"HTTP/1.1 200")
    for reader in followed.readers:
        assert_prompt(reader, since_s, until_s)
