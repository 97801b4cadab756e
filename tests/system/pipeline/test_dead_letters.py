"""An order that the broker dead-letters, from the client's 202 to its replay, through all four services."""

import pytest

from pipeline.contract import topology
from tests.support.brokers.broker import unsettled
from tests.support.brokers.dead_letters import headrace_dead, return_too_often
from tests.support.data.products import Audit
from tests.support.services.deployment import Deployment
from tests.support.services.ingest import ORDERS
from tests.support.time.conditions import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("away", "queue", "sent_to"),
    [
        ("persist_worker", topology.ORDERS_ACCEPTED_QUEUE, topology.ORDER_ACCEPTED),
        ("product_consumer", topology.ORDERS_CREATED_QUEUE, topology.ORDER_CREATED),
    ],
)
async def test_what_comes_back_too_often_is_failed_and_a_replay_makes_one_order_of_it(
    deployment: Deployment, away: str, queue: str, sent_to: str
) -> None:
    product_id = await deployment.create_product(10)
    await deployment.stop(away)
    ids = await bulk(deployment, product_id, 2, 3)
    await eventually(lambda: has_come(deployment, queue))
    await deployment.stop("persist_worker")  # which would consume orders.dead
    assert await return_too_often(deployment.environment["AMQP_URL"], queue) == 101
    await deployment.start_missing()
    for order_id in ids:
        order = await eventually(lambda order_id=order_id: deployment.verdict(order_id))  # type: ignore[misc]
        assert (order["status"], order["reason"]) == ("FAILED", "delivery_limit")
    await deployment.stop(away)
    shown, _ = await headrace_dead(deployment.environment, "replay", "--product", product_id)
    assert shown == f"replayed 2 dead letters: 2 to {sent_to}\n"
    assert [(await deployment.get_order(order_id))["status"] for order_id in ids] == ["PENDING", "PENDING"]
    await deployment.start_missing()
    for order_id in ids:
        order = await eventually(lambda order_id=order_id: deployment.verdict(order_id))  # type: ignore[misc]
        assert order["status"] == "PROCESSED"
    assert (await headrace_dead(deployment.environment, "replay"))[0] == "replayed 0 dead letters\n"
    assert await deployment.outcomes(product_id) == dict.fromkeys(ids, "PROCESSED")
    assert (await deployment.product(product_id))["qty"] == 5
    assert await Audit(deployment.connection).unbalanced() == []


async def bulk(deployment: Deployment, product_id: str, *quantities: int) -> list[str]:
    """Publish a bulk, in one message. Returns the ids of its orders."""
    async with deployment.client("ingest_api") as client:
        orders = [{"productId": product_id, "quantity": it} for it in quantities]
        response = await client.post(f"{ORDERS}/bulk", json=orders)
    assert response.status_code == 202, response.text
    return [it["id"] for it in response.json()]


async def has_come(deployment: Deployment, queue: str) -> bool:
    return await unsettled(deployment.environment["AMQP_URL"], queue) == 1
