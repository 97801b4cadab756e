"""PostgreSQL is away and both workers hold what they have: how much that is, for how long, and what it costs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from database import connection as database_connection
from persist_worker import forward as forward_module
from pipeline.broker import batches
from pipeline.broker.batches import DeclareQueue
from pipeline.contract import topology
from pipeline.process.lifecycle import Abandoned
from tests.support.brokers.batches import hold_for_ever
from tests.support.brokers.broker import plain_channel, send_orders, unsettled
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import Proxy, cut_until_reconnected, proxy_to
from tests.support.services.workers import (
    Worker,
    add_product,
    assert_conserved,
    connected,
    persist_worker,
    product_consumer,
)
from tests.support.time.conditions import eventually

A = new_product_id()


@dataclass(frozen=True)
class Stage:
    """A worker, where its messages come from, and where what it has done with an order is to be found."""

    worker: Callable[..., AbstractAsyncContextManager[Worker]]
    declare: DeclareQueue
    queue: str
    key: str
    table: str


STAGES = [
    pytest.param(
        Stage(
            persist_worker, topology.declare_accepted, topology.ORDERS_ACCEPTED_QUEUE, topology.ORDER_ACCEPTED, "orders"
        ),
        id="persist_worker",
    ),
    pytest.param(
        Stage(
            product_consumer,
            topology.declare_created,
            topology.ORDERS_CREATED_QUEUE,
            topology.ORDER_CREATED,
            "stock_ledger",
        ),
        id="product_consumer",
    ),
]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 0.01)
    monkeypatch.setattr(forward_module, "backoff_s", lambda attempt: 0.01)
    monkeypatch.setattr(batches, "_DEPTH_INTERVAL_S", 0.02)


@dataclass(frozen=True)
class Outage:
    """A worker whose servers can be taken away."""

    stage: Stage
    worker: Worker
    database: Proxy
    broker: Proxy
    environment: dict[str, str]

    async def send(self, messages: int) -> None:
        """Messages of one order each."""
        async with plain_channel(self.environment["AMQP_URL"]) as channel:
            for _ in range(messages):
                await send_orders(channel, topology.ORDERS_EXCHANGE, self.stage.key, order(A))

    async def hold_a_batch(self) -> "asyncio.Task[int | None]":
        """Take the database away and let the worker find out, with a batch in hand."""
        self.database.go_away()
        working = asyncio.create_task(self.worker.run_once())
        await eventually(lambda: working.done() or self.is_said("PostgreSQL"))
        assert not working.done()
        return working

    def is_said(self, what: str) -> bool:
        return what in str(self.worker.database._health.summary())

    async def ready(self) -> int:
        """How many messages are with nobody."""
        return await unsettled(self.environment["AMQP_URL"], self.stage.queue)

    async def done(self) -> int:
        """How many orders the worker has dealt with."""
        async with connected(self.environment["DATABASE_URL"]) as connection:
            count: int = await connection.fetchval(f"SELECT count(*) FROM {self.stage.table}")
            return count


@asynccontextmanager
async def outage_of(stage: Stage, environment: dict[str, str], **settings: object) -> AsyncIterator[Outage]:
    """All is well at first. `settings`: of the worker."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(proxy_to(environment["DATABASE_URL"]))
        broker = await stack.enter_async_context(proxy_to(environment["AMQP_URL"]))
        async with connected(environment["DATABASE_URL"]) as connection:
            await add_product(connection, A, 100)
        far = {
            **environment,
            "DATABASE_URL": database.url(environment["DATABASE_URL"]),
            "AMQP_URL": broker.url(environment["AMQP_URL"]),
        }
        worker = await stack.enter_async_context(stage.worker(far, **settings))
        yield Outage(stage, worker, database, broker, environment)
        async with connected(environment["DATABASE_URL"]) as connection:
            await assert_conserved(connection)


@pytest.mark.parametrize("stage", STAGES)
async def test_p8_no_more_is_taken_than_a_batch_and_what_may_be_sent_ahead(
    environment: dict[str, str], stage: Stage
) -> None:
    """Four, the batch included; all the others stay with the broker, where other workers find them."""
    async with outage_of(stage, environment, prefetch=4, batch_max_deliveries=2) as outage:
        await outage.send(20)
        await eventually(lambda: _is(outage.ready, 16))
        working = await outage.hold_a_batch()
        attempts = outage.database.connections
        await eventually(lambda: outage.database.connections > attempts + 10)
        assert await outage.ready() == 16
        assert await outage.done() == 0
        outage.database.come_back()
        done = await working or 0
        while done < 20:
            done += await outage.worker.run_once() or 0
        assert await outage.done() == 20


async def _is(number: Callable[[], Awaitable[int]], expected: int) -> bool:
    return await number() == expected


@pytest.mark.parametrize("stage", STAGES)
async def test_p1_p2_a_database_that_is_away_for_long_costs_a_message_one_delivery(
    environment: dict[str, str], stage: Stage
) -> None:
    """However long, and however often the broker goes meanwhile."""
    counted = (
        sample("headrace_given_back_total", queue=stage.queue),
        sample("headrace_redeliveries_total", queue=stage.queue),
    )
    async with (
        outage_of(stage, environment, prefetch=4, batch_max_deliveries=2, batch_hold_s=0.2) as outage,
        grown(*counted) as growth,
    ):
        await outage.send(3)
        await eventually(lambda: len(outage.worker.consumer._buffer) == 3)
        working = await outage.hold_a_batch()
        for _ in range(4):
            await eventually(lambda: outage.is_said("consumes nothing before"))
            await eventually(lambda: _is(outage.ready, 3))
            await cut_until_reconnected(outage.broker)
        await eventually(lambda: outage.is_said("consumes nothing before"))
        hold_for_ever(outage.worker.consumer)
        outage.database.come_back()
        assert await working == 2
        await eventually(lambda: len(outage.worker.consumer._buffer) == 3)
        assert growth() == [1, 3]
        while await outage.ready() or outage.worker.consumer._buffer:
            await outage.worker.run_once()
        assert await outage.done() == 3
        assert growth() == [1, 3]
    assert await unsettled(environment["AMQP_URL"], stage.queue) == 0
    assert await unsettled(environment["AMQP_URL"], topology.ORDERS_DEAD_QUEUE) == 0


@pytest.mark.parametrize("stage", STAGES)
async def test_p9_a_batch_that_is_held_is_left_to_the_broker_as_soon_as_the_worker_is_to_stop(
    environment: dict[str, str], stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 3600.0)
    async with outage_of(stage, environment) as outage:
        await outage.send(1)
        working = await outage.hold_a_batch()
        outage.worker.stop.set()
        with pytest.raises(Abandoned):
            async with asyncio.timeout(5):
                await working
    await eventually(lambda: _is(lambda: unsettled(environment["AMQP_URL"], stage.queue), 1))
