"""P9: a worker that is told to stop while what it needs is away."""

import time

import pytest

from pipeline.contract import topology
from tests.support.brokers.broker import gets_back, plain_channel, send_orders
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.services.processes import service_process
from tests.support.services.workers import connected, locked
from tests.support.time.conditions import eventually

AWAY = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}


@pytest.mark.parametrize("name", ["persist_worker", "product_consumer"])
async def test_p9_with_nothing_in_hand_a_worker_stops_at_once_although_the_database_is_away(
    environment: dict[str, str], name: str
) -> None:
    async with service_process(name, {**environment, **AWAY}, ready="/livez") as service:
        began = time.monotonic()
        assert await service.stop() == 0
        assert time.monotonic() - began < 5
        assert "with a batch in hand" not in service.log()


QUEUES = {
    "persist_worker": (topology.declare_accepted, topology.ORDER_ACCEPTED),
    "product_consumer": (topology.declare_created, topology.ORDER_CREATED),
}


async def send_one(environment: dict[str, str], name: str) -> str:
    """Send one order to a worker. Returns its queue."""
    declare, key = QUEUES[name]
    async with plain_channel(environment["AMQP_URL"]) as channel:
        queue = await declare(channel)
        await send_orders(channel, topology.ORDERS_EXCHANGE, key, order(new_product_id()))
        return queue.name


@pytest.mark.parametrize("name", QUEUES)
async def test_p9_a_batch_that_is_held_because_the_database_is_away_does_not_hold_up_a_stop(
    environment: dict[str, str], name: str
) -> None:
    """Nothing is committed, so the batch goes back to the broker at once."""
    queue = await send_one(environment, name)
    async with service_process(name, {**environment, **AWAY}, ready="/livez") as service:
        await eventually(lambda: "holding the batch" in service.log())
        began = time.monotonic()
        assert await service.stop() == 0
        assert time.monotonic() - began < 5
        assert "stopping with a batch in hand" in service.log()
    await gets_back(environment["AMQP_URL"], queue, 1)


async def test_p9_a_batch_that_is_not_stored_within_the_grace_is_left_to_the_broker(
    environment: dict[str, str],
) -> None:
    hasty = {**environment, "PERSIST_WORKER_STOP_GRACE_S": "0.1"}
    async with (
        connected(environment["DATABASE_URL"]) as connection,
        service_process("persist_worker", hasty) as service,
        locked(environment["DATABASE_URL"], "orders"),
    ):
        queue = await send_one(environment, "persist_worker")
        await eventually(lambda: connection.fetch(_WAITS_FOR_A_LOCK))
        assert await service.stop() == 0
        assert "not done within 0.1 s" in service.log()
        await gets_back(environment["AMQP_URL"], queue, 1)


@pytest.mark.parametrize(("name", "table"), [("persist_worker", "orders"), ("product_consumer", "stock_ledger")])
async def test_p9_a_batch_on_a_server_that_says_nothing_any_more_is_left_to_the_broker(
    environment: dict[str, str], name: str, table: str
) -> None:
    """PostgreSQL hangs in the middle of a transaction, and does not even answer the rollback."""
    async with proxy_to(environment["DATABASE_URL"]) as proxy:
        hasty = {
            **environment,
            "DATABASE_URL": proxy.url(environment["DATABASE_URL"]),
            f"{name.upper()}_STOP_GRACE_S": "0.1",
        }
        async with connected(environment["DATABASE_URL"]) as connection, service_process(name, hasty) as service:
            async with locked(environment["DATABASE_URL"], table):
                queue = await send_one(environment, name)
                await eventually(lambda: connection.fetch(_WAITS_FOR_A_LOCK))
                proxy.hold()
                began = time.monotonic()
                assert await service.stop() == 0
                assert time.monotonic() - began < 6
            await gets_back(environment["AMQP_URL"], queue, 1)


_WAITS_FOR_A_LOCK = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name IN ('persist_worker', 'product_consumer') AND wait_event_type = 'Lock'"
)
