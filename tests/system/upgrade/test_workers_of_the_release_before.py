"""The release before works behind today's ingest_api, on today's schema: what an operator sees in an upgrade."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from pipeline.contract.orders import split_body
from tests.support.brokers.dead_letters import headrace_dead
from tests.support.clients.load import accepted_ids, loading
from tests.support.data.orders import basket, order
from tests.support.scenes.persisting import accept
from tests.support.scenes.upgrades import account_for, holds_for, publish, upgrade
from tests.support.services.deployment import Deployment, deployed
from tests.support.services.ingest import ORDERS
from tests.support.services.workers import dead_letters, stored_orders
from tests.support.time.conditions import eventually

WORKERS = ("product_consumer", "persist_worker")


@pytest.fixture
async def deployment(environment: Mapping[str, str], previous: Path) -> AsyncIterator[Deployment]:
    """Both workers are of the release before."""
    async with deployed(environment, trees=dict.fromkeys(WORKERS, previous)) as it:
        yield it


async def with_reference(deployment: Deployment, product_id: str) -> str:
    """Order with a member that the release before does not know. Returns the order's id."""
    async with deployment.client("ingest_api") as client:
        body = {"productId": product_id, "quantity": 1, "reference": "4711"}
        answer = await client.post(ORDERS, json=body)
    assert answer.status_code == 202, answer.text
    order_id: str = answer.json()["id"]
    return order_id


async def test_p1_p2_plain_orders_go_through_and_all_workers_can_be_replaced_under_load(deployment: Deployment) -> None:
    products = [await deployment.create_product(1_000_000) for _ in range(3)]
    async with loading(deployment.url("ingest_api"), products, clients=8) as load:
        await load.more(200)
        assert await upgrade(deployment, *WORKERS) == [0, 0]
        await load.more(200)
        result = await load.end()
    assert set(result.by_status()) == {202}
    counts = await account_for(deployment, accepted_ids(result))
    assert counts.dead_letters == 0


async def test_p1_an_old_persist_worker_holds_what_it_cannot_read_and_a_new_one_takes_it_over(
    deployment: Deployment,
) -> None:
    product_id, other = [await deployment.create_product(10) for _ in range(2)]
    detailed = await with_reference(deployment, product_id)
    await holds_for(deployment, "persist_worker", "42P10")
    several = basket((product_id, 2), (other, 3))
    await publish(deployment, several)
    plain = (await deployment.order(product_id)).json()["id"]
    assert [(await deployment.get_order(it))["status"] for it in (detailed, plain)] == ["PENDING", "PENDING"]
    assert await upgrade(deployment, *WORKERS) == [0, 0]
    counts = await account_for(deployment, [detailed, several.id, plain])
    assert (counts.processed, counts.dead_letters) == (3, 0)
    assert [(await deployment.product(it))["qty"] for it in (product_id, other)] == [6, 7]


async def test_p2_an_old_persist_worker_holds_a_batch_that_comes_again_and_a_new_one_takes_it_over(
    deployment: Deployment,
) -> None:
    product_id = await deployment.create_product(10)
    first, second = order(product_id), order(product_id)
    await accept(dict(deployment.environment), [first])
    await eventually(lambda: is_stored(deployment, first.id))
    await accept(dict(deployment.environment), [first, second])
    await holds_for(deployment, "persist_worker", "42P10")
    assert await upgrade(deployment, *WORKERS) == [0, 0]
    counts = await account_for(deployment, [first.id, second.id])
    assert counts.processed == 2


async def test_an_old_product_consumer_parks_whole_messages_and_a_replay_decides_them(deployment: Deployment) -> None:
    """The order of the upgrade was not kept: persist_worker is replaced before product_consumer."""
    product_id, other = [await deployment.create_product(10) for _ in range(2)]
    assert await upgrade(deployment, "persist_worker") == [0]
    plain, detailed = await in_one_message(deployment, {"productId": product_id, "quantity": 1}, reference="4711")
    several = basket((product_id, 2), (other, 3))
    await publish(deployment, several)
    assert await eventually(lambda: parked_orders(deployment, 3)) == {"unknown_schema"}
    # A letter is a whole message and names none of its orders, so their clients see that they are not decided.
    assert (await deployment.get_order(plain))["status"] == "PENDING"
    assert await upgrade(deployment, "product_consumer") == [0]
    shown, _ = await headrace_dead(deployment.environment, "replay")
    assert "to order.created" in shown
    counts = await account_for(deployment, [plain, detailed, several.id])
    assert (counts.processed, counts.dead_letters) == (3, 0)
    assert [(await deployment.product(it))["qty"] for it in (product_id, other)] == [6, 7]


async def in_one_message(deployment: Deployment, body: dict[str, object], **details: str) -> list[str]:
    """Order twice in one bulk, the second time with these members as well. Returns the ids."""
    async with deployment.client("ingest_api") as client:
        answer = await client.post(f"{ORDERS}/bulk", json=[body, {**body, **details}])
    assert answer.status_code == 202, answer.text
    return [it["id"] for it in answer.json()]


async def parked_orders(deployment: Deployment, count: int) -> set[str]:
    """The reasons of the letters, once they hold so many orders; until then none."""
    letters = await dead_letters(deployment.connection)
    return {it.reason for it in letters} if sum(len(split_body(it.body)) for it in letters) == count else set()


async def is_stored(deployment: Deployment, order_id: str) -> bool:
    return order_id in await stored_orders(deployment.connection)
