"""POST /api/v1/orders/{id}/cancel: accepted once the broker has it, and answered as GET answers."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from database.connection import Connection
from ingest_api.intake.cancel import MAX_BODY_BYTES
from persist_worker.write import prepare, write
from pipeline.contract import topology
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import AnyOrder
from product_consumer.ledger import record
from tests.conftest import Servers
from tests.support.data.orders import basket, order
from tests.support.scenes.cancelling import cancel_now, cancellation
from tests.support.scenes.ingest_faults import behind, limit_queues, quickly
from tests.support.services.ingest import ORDERS, Ingest, check_problem, ingesting, insert_product
from tests.support.services.workers import cancel_consumer, connected, qty_of
from tests.support.time.conditions import eventually

QUEUE = topology.ORDERS_CANCEL_REQUESTED_QUEUE


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        yield it


async def accepted(ingest: Ingest, product_id: str) -> str:
    """The id of an order that was accepted and is not stored."""
    return str((await ingest.order(product_id)).json()["id"])


async def stored(connection: Connection, it: AnyOrder, *, is_decided: bool = True) -> AnyOrder:
    await write(connection, [it], [])
    if is_decided:
        await record(connection, [it], [])
    return it


# ── accepted


async def test_p1_a_cancellation_is_accepted_once_the_broker_has_it(ingest: Ingest, laptop: str) -> None:
    order_id = await accepted(ingest, laptop)
    response = await ingest.cancel(order_id, {"reason": 'changed\u2028 my "mind" 🙂'})
    assert (response.status_code, response.headers["location"]) == (202, f"{ORDERS}/{order_id}")
    assert response.headers["order-status-source"] == "store"
    assert response.json() == {"id": order_id, "status": "PENDING", "final": False}
    (found,) = await ingest.cancel_requests()
    assert (found.order_id, found.client, found.sees_all) == (order_id, "", True)
    assert found.reason == 'changed\u2028 my "mind" 🙂'
    assert await ingest.metric("headrace_cancellations_accepted_total") == 1
    assert await ingest.metric("headrace_orders_accepted_total") == 1, "it is no order"


@pytest.mark.parametrize("body", [None, {}])
async def test_the_reason_and_even_the_body_may_be_left_out(ingest: Ingest, laptop: str, body: Any) -> None:
    order_id = await accepted(ingest, laptop)
    assert (await ingest.cancel(order_id, body)).status_code == 202
    assert [it.reason for it in await ingest.cancel_requests()] == [None]


async def test_a_cancellation_may_be_sent_again_until_nothing_is_left_to_do(
    ingest: Ingest, laptop: str, connection: Connection
) -> None:
    it = await stored(connection, order(laptop, 2))
    for _ in range(2):
        response = await ingest.cancel(it.id)
        assert (response.status_code, response.json()["status"]) == (202, "PROCESSED")
    await cancel_now(connection, cancellation(it, reason="too big"))
    count = len(await ingest.cancel_requests())
    response = await ingest.cancel(it.id)
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["cancel_reason"]) == ("CANCELLED", "too big")
    assert response.json() == (await ingest.get(f"{ORDERS}/{it.id}")).json()
    assert len(await ingest.cancel_requests()) == count, "nothing was published"


async def test_a_cancelled_basket_is_answered_with_its_lines_and_its_clients_details(
    ingest: Ingest, laptop: str, connection: Connection
) -> None:
    other = await insert_product(ingest.environment["DATABASE_URL"], "1.00", 9)
    it = await stored(connection, basket((laptop, 2), (other, 1), reference="no. 7", metadata={"gift": "yes"}))
    before = (await ingest.cancel(it.id)).json()
    assert [sent.order_id for sent in await ingest.cancel_requests()] == [it.id]
    await cancel_now(connection, cancellation(it))
    after = (await ingest.cancel(it.id)).json()
    assert after.pop("cancelled_at")
    assert after == before | {"status": "CANCELLED"}
    assert ([line["product_id"] for line in after["lines"]], after["reference"]) == ([laptop, other], "no. 7")
    assert (await qty_of(connection, other)) == 9


async def test_a_failed_order_is_answered_as_it_is_and_one_that_may_still_change_is_cancelled(
    ingest: Ingest, laptop: str, connection: Connection
) -> None:
    failed = await stored(connection, order(laptop, 51))
    response = await ingest.cancel(failed.id)
    assert (response.status_code, response.json()["status"]) == (200, "FAILED")
    assert response.json()["reason"] == "out_of_stock"
    parked = await stored(connection, order(laptop), is_decided=False)
    await connection.execute(
        "INSERT INTO dead_letters (order_id, stage, reason, detail, body) VALUES ($1, 'stock', 'rejected', '', '')",
        parked.id,
    )
    response = await ingest.cancel(parked.id)
    assert (response.status_code, response.json()["status"], response.json()["final"]) == (202, "FAILED", False)


# ── refused


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"reason": ""}, "invalid-value"),
        ({"reason": "x" * 201}, "invalid-value"),
        ({"reason": "a\0b"}, "invalid-value"),
        ({"reason": 3}, "invalid-value"),
        ({"reason": None}, "invalid-value"),
        ({"why": "x"}, "invalid-value"),
        ([], "invalid-value"),
    ],
)
async def test_a_wrong_body_is_refused_and_says_where(ingest: Ingest, laptop: str, body: Any, name: str) -> None:
    order_id = await accepted(ingest, laptop)
    check_problem(await ingest.cancel(order_id, body), 422, name)
    assert await ingest.cancel_requests() == []


async def test_other_wrong_requests_are_refused(ingest: Ingest, laptop: str) -> None:
    order_id = await accepted(ingest, laptop)
    path = f"{ORDERS}/{order_id}/cancel"
    check_problem(await ingest.cancel(order_id, query="?wait=31"), 422, "invalid-value")
    check_problem(await ingest.cancel(order_id, query="?force=1"), 400, "invalid-query")
    check_problem(await ingest.client.get(path), 405, "method-not-allowed")
    check_problem(await ingest.client.post(path, content=b'{"reason":"x"}'), 415, "not-json")
    large = await ingest.client.post(
        path, content=b" " * (MAX_BODY_BYTES + 1), headers={"Content-Type": "application/json"}
    )
    check_problem(large, 413, "too-large")
    half = await ingest.client.post(path, content=b'{"reason":"\\ud800"}', headers={"Content-Type": "application/json"})
    check_problem(half, 400, "malformed")


async def test_what_is_no_order_of_ours_is_404(ingest: Ingest) -> None:
    for order_id in ("7", "01a20267-97ad-7199-a6a6-540000cf26ec", OrderIds("7a" * 32).mint()):
        check_problem(await ingest.cancel(order_id), 404, "not-found")
    assert await ingest.cancel_requests() == []


async def test_p8_a_full_queue_of_cancellations_is_503_and_says_when_to_come_back_and_orders_go_on(
    ingest: Ingest, laptop: str, servers: Servers
) -> None:
    order_id = await accepted(ingest, laptop)
    await limit_queues(servers, ingest.environment["AMQP_URL"], 1, QUEUE)
    await eventually(lambda: _is(ingest, order_id, 503))
    response = await ingest.cancel(order_id)
    check_problem(response, 503, "overloaded")
    assert int(response.headers["retry-after"]) > 0
    assert (await ingest.order(laptop)).status_code == 202


async def _is(ingest: Ingest, order_id: str, status: int) -> bool:
    return (await ingest.cancel(order_id)).status_code == status


async def test_without_a_broker_it_is_503_and_works_again_without_help(
    environment: dict[str, str], laptop: str
) -> None:
    async with behind(environment, "AMQP_URL") as broker, ingesting(environment) as ingest:
        order_id = await accepted(ingest, laptop)
        broker.go_away()
        response = await quickly(ingest.cancel(order_id))
        assert response.status_code == 503
        assert response.json()["type"].rpartition("/")[2] in ("broker-unavailable", "outcome-unknown")
        broker.come_back()
        await eventually(lambda: _is(ingest, order_id, 202))


async def test_without_a_database_a_cancellation_is_accepted(environment: dict[str, str], laptop: str) -> None:
    async with behind(environment, "DATABASE_URL") as database, ingesting(environment) as ingest:
        order_id = await accepted(ingest, laptop)
        database.go_away()
        response = await ingest.cancel(order_id)
        assert (response.status_code, response.headers["order-status-source"]) == (202, "id")
        check_problem(await ingest.cancel(str(uuid.uuid4())), 503, "store-unavailable")
        assert [it.order_id for it in await ingest.cancel_requests()] == [order_id]


# ── waiting


async def test_with_wait_the_answer_is_the_cancelled_order(
    ingest: Ingest, database_url: str, connection: Connection
) -> None:
    product_id = await insert_product(database_url, qty=5)
    it = await stored(connection, order(product_id, 2))
    cancelling = asyncio.create_task(ingest.cancel(it.id, query="?wait=30"))
    async with cancel_consumer(ingest.environment) as worker:
        await worker.run_once()
        response = await cancelling
    assert (response.status_code, response.json()["status"]) == (200, "CANCELLED")
    assert await qty_of(connection, product_id) == 5
    (listed,) = (await ingest.get(f"{ORDERS}/product/{product_id}")).json()
    assert listed == response.json(), "its list is as new"


async def test_a_wait_that_ends_first_answers_what_is_known(
    ingest: Ingest, laptop: str, connection: Connection
) -> None:
    it = await stored(connection, order(laptop, 2))
    response = await ingest.cancel(it.id, query="?wait=0.1")
    assert (response.status_code, response.json()["status"]) == (202, "PROCESSED")


async def test_an_order_sold_out_by_a_cancelled_one_can_be_ordered_again(
    ingest: Ingest, database_url: str, connection: Connection
) -> None:
    product_id = await insert_product(database_url, qty=2)
    it = await stored(connection, order(product_id, 2))
    check_problem(await ingest.order(product_id), 409, "out-of-stock")
    await ingest.cancel(it.id)
    async with cancel_consumer(ingest.environment) as worker:
        await worker.run_once()
    await eventually(lambda: _sells(ingest, product_id))


async def _sells(ingest: Ingest, product_id: str) -> bool:
    return (await ingest.order(product_id)).status_code == 202
