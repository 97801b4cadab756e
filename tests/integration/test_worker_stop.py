"""P9: a worker that is told to stop while what it needs is away."""

import time

import pytest

from pipeline import topology
from tests.broker import plain_channel, send_orders, unsettled
from tests.conditions import eventually
from tests.orders import new_product_id, order
from tests.processes import service_process


@pytest.mark.parametrize("name", ["persist_worker", "product_consumer"])
async def test_p9_with_nothing_in_hand_a_worker_stops_at_once_although_the_database_is_away(
    environment: dict[str, str], name: str
) -> None:
    away = {**environment, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    async with service_process(name, away, ready="/livez") as service:
        began = time.monotonic()
        assert await service.stop() == 0
        assert time.monotonic() - began < 5
        assert "with a batch in hand" not in service.log()


async def test_p9_a_batch_that_cannot_be_stored_within_the_grace_is_left_to_the_broker(
    environment: dict[str, str],
) -> None:
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, order(new_product_id()))
    away = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "PERSIST_WORKER_STOP_GRACE_S": "0.1"}
    async with service_process("persist_worker", {**environment, **away}, ready="/livez") as service:
        await eventually(lambda: "holding the batch" in service.log())
        assert await service.stop() == 0
        assert "stopping with a batch in hand" in service.log()
    assert await unsettled(environment["AMQP_URL"], topology.ORDERS_ACCEPTED_QUEUE) == 1
