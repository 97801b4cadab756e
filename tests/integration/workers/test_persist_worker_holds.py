"""Passing faults: persist_worker holds the batch and acknowledges nothing until it is stored and forwarded (P1)."""

import asyncio

import pytest
from aio_pika.abc import AbstractChannel

from database import connection as database_connection
from persist_worker import forward as forward_module
from pipeline.contract import topology
from pipeline.process.lifecycle import Abandoned
from tests.conftest import Servers
from tests.support.brokers.broker import Management, gets_back, plain_channel, unsettled
from tests.support.data.metrics import sample
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.scenes.persisting import accept, forwarded, stored
from tests.support.services.workers import connected, locked, persist_worker, wait_20_ms_for_locks
from tests.support.time.conditions import eventually

A = new_product_id()
ACCEPTED, CREATED = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 0.01)
    monkeypatch.setattr(forward_module, "backoff_s", lambda attempt: 0.01)


async def test_p1_a_batch_that_is_held_is_not_acknowledged(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker redelivers the batch if the worker dies while it holds it."""
    await accept(environment, [order(A)])
    wait_20_ms_for_locks(monkeypatch)
    async with persist_worker(environment) as worker, locked(environment["DATABASE_URL"], "orders"):
        batch = asyncio.create_task(worker.run_once())
        await eventually(lambda: "55P03" in str(worker.database._health.summary()))
        assert not worker.database._health.is_ready
        batch.cancel()
        await asyncio.wait({batch})
    await gets_back(environment["AMQP_URL"], ACCEPTED, 1)
    assert await forwarded(environment) == []
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 1
    assert len(await stored(environment)) == 1


async def nothing(_: AbstractChannel) -> None:
    """Declare nothing."""


async def test_p1_a_forward_that_nobody_takes_holds_the_batch(
    environment: dict[str, str], servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is gone and cannot be declared again, so stored orders would never be decided."""
    it = order(A)
    await accept(environment, [it])
    async with persist_worker(environment) as worker, Management(servers.rabbitmq_api, environment["AMQP_URL"]) as api:
        monkeypatch.setattr(worker.publisher, "_declare", nothing)
        await api.delete_queue(CREATED)
        retries = sample("headrace_batch_retries_total", queue=ACCEPTED, reason="unroutable")
        publishes = 0
        publish = worker.publisher.publish

        async def counted(*args: object, **kwargs: object) -> object:
            nonlocal publishes
            publishes += 1
            return await publish(*args, **kwargs)  # type: ignore[arg-type]

        worker.publisher.publish = counted  # type: ignore[method-assign, assignment]
        batch = asyncio.create_task(worker.run_once())
        await eventually(lambda: publishes >= 3)
        assert not batch.done()
        assert not worker.database._health.is_ready
        assert "order.created not confirmed: unroutable" in str(worker.database._health.summary())
        assert retries() >= 2
        async with plain_channel(environment["AMQP_URL"]) as channel:
            await topology.declare_created(channel)
        assert await batch == 1
        assert worker.database._health.is_ready
    assert await forwarded(environment) == [body_of(it)]
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_p1_a_forward_whose_queue_was_deleted_declares_it_again(
    environment: dict[str, str], servers: Servers
) -> None:
    it = order(A)
    await accept(environment, [it])
    async with persist_worker(environment) as worker, Management(servers.rabbitmq_api, environment["AMQP_URL"]) as api:
        await api.delete_queue(CREATED)
        assert await worker.run_once() == 1
        assert worker.database._health.is_ready
    assert await forwarded(environment) == [body_of(it)]


async def test_p9_stored_orders_that_cannot_be_forwarded_are_left_to_the_broker_as_soon_as_the_worker_is_to_stop(
    environment: dict[str, str], servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = order(A)
    await accept(environment, [it])
    monkeypatch.setattr(forward_module, "backoff_s", lambda attempt: 3600.0)
    async with persist_worker(environment) as worker, Management(servers.rabbitmq_api, environment["AMQP_URL"]) as api:
        monkeypatch.setattr(worker.publisher, "_declare", nothing)
        await api.delete_queue(CREATED)
        batch = asyncio.create_task(worker.run_once())
        await eventually(lambda: "not confirmed: unroutable" in str(worker.database._health.summary()))
        worker.stop.set()
        with pytest.raises(Abandoned):
            async with asyncio.timeout(5):
                await batch
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 1
    assert await stored(environment) == {it.id: (A, 1)}
    assert await forwarded(environment) == [body_of(it)]


async def test_p1_a_killed_backend_delays_a_batch_and_that_is_all(environment: dict[str, str]) -> None:
    orders = [order(A) for _ in range(5)]
    await accept(environment, orders)
    async with persist_worker(environment) as worker, connected(environment["DATABASE_URL"]) as connection:
        async with locked(environment["DATABASE_URL"], "orders"):
            batch = asyncio.create_task(worker.run_once())
            for _ in range(3):
                await eventually(
                    lambda: connection.fetch(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND application_name = 'persist_worker'"
                        " AND wait_event_type = 'Lock'"
                    )
                )
        assert await batch == 5
    assert await stored(environment) == {it.id: (A, 1) for it in orders}
    assert await forwarded(environment) == [body_of(*orders)]
