"""POST /api/v1/orders/bulk on a real broker, database and Redis."""

import json
import uuid
from decimal import Decimal

import httpx
import pytest

from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent
from tests.support.faults.faults import proxy_to
from tests.support.services.ingest import ORDERS, Ingest, check_problem, ingesting, insert_product
from tests.support.services.processes import service_process
from tests.support.services.workers import connected, persist_worker, redis_client, stored_orders
from tests.support.time.conditions import eventually

BULK = f"{ORDERS}/bulk"
KEY = {"Idempotency-Key": "01a20267-97ad-7199-a6a6-540000cf26ec"}


def item(product_id: str, quantity: object = 1) -> dict[str, object]:
    return {"productId": product_id, "quantity": quantity}


async def post(ingest: Ingest, items: list[dict[str, object]], **headers: str) -> httpx.Response:
    return await ingest.client.post(BULK, json=items, headers=headers)


async def test_each_order_is_answered_in_its_place_and_all_good_ones_are_one_message(
    ingest: Ingest, laptop: str
) -> None:
    unknown = str(uuid.uuid4())
    response = await post(ingest, [item(laptop, 2), item(laptop, 0), item(unknown), item(laptop.upper(), 3)])
    assert (response.status_code, response.headers["content-type"]) == (202, "application/json")
    first, bad, missing, last = response.json()
    assert [(it["status"], it["quantity"], it["product_id"]) for it in (first, last)] == [
        ("PENDING", 2, laptop),
        ("PENDING", 3, laptop),
    ]
    assert first["id"] < last["id"]
    assert (bad["status"], bad["type"]) == (422, "/docs/problems/invalid-value")
    assert bad["errors"][0]["pointer"] == "#/1/quantity"
    assert (missing["status"], missing["errors"][0]["pointer"]) == (422, "#/2/productId")
    (message,) = await ingest.queued()
    assert json.loads(message.body) == [first, last]
    assert message.headers["orders"] == 2
    assert (await ingest.get(f"{ORDERS}/{first['id']}")).json()["status"] == "PENDING"


async def test_ndjson_is_answered_likewise(ingest: Ingest, laptop: str) -> None:
    lines = "\n".join(json.dumps(item(laptop, quantity)) for quantity in (1, 2, 3))
    headers = {"Content-Type": "application/x-ndjson; charset=utf-8"}
    response = await ingest.client.post(BULK, content=lines + "\n{\n", headers=headers)
    assert response.status_code == 202
    assert [it.get("quantity") for it in response.json()] == [1, 2, 3, None]
    assert response.json()[3]["type"] == "/docs/problems/malformed"
    assert len(await ingest.queued_orders()) == 3


async def test_none_accepted_is_422_and_nothing_is_published(ingest: Ingest, laptop: str) -> None:
    response = await post(ingest, [item(laptop, 0), item("x")])
    assert response.status_code == 422
    assert [it["status"] for it in response.json()] == [422, 422]
    assert await ingest.queued() == []


async def test_a_thousand_are_taken_at_once_and_one_more_is_too_many(ingest: Ingest, laptop: str) -> None:
    response = await post(ingest, [item(laptop)] * 1000)
    assert response.status_code == 202
    assert len({it["id"] for it in response.json()}) == 1000
    (message,) = await ingest.queued()
    assert len(json.loads(message.body)) == 1000
    check_problem(await post(ingest, [item(laptop)] * 1001), 422, "invalid-value")


@pytest.mark.parametrize(
    ("content", "content_type", "status", "name"),
    [
        (b"{}", "application/json", 422, "invalid-value"),
        (b"[", "application/json", 400, "malformed"),
        (b"[]", "application/json", 422, "invalid-value"),
        (b"\n\n", "application/x-ndjson", 422, "invalid-value"),
        (b"[]", "text/plain", 415, "not-json"),
        pytest.param(b"[" + b" " * 1024**2 + b"]", "application/json", 413, "too-large", id="a megabyte of spaces"),
    ],
)
async def test_what_is_no_bulk_request_is_a_problem(
    ingest: Ingest, content: bytes, content_type: str, status: int, name: str
) -> None:
    response = await ingest.client.post(BULK, content=content, headers={"Content-Type": content_type})
    check_problem(response, status, name)


async def test_who_sends_something_else_is_told_what_would_do(ingest: Ingest, laptop: str) -> None:
    for media_type in ("application/merge-patch+json", "text/x-ndjson"):
        refused = await ingest.client.post(BULK, content=b"[]", headers={"Content-Type": media_type})
        check_problem(refused, 415, "not-json")
        takes = refused.headers["Accept"].split(", ")
        assert takes[:2] == ["application/json", "application/x-ndjson"]
        for would_do in takes:
            content = json.dumps(item(laptop) if "nd" in would_do or "jsonl" in would_do else [item(laptop)])
            taken = await ingest.client.post(BULK, content=content, headers={"Content-Type": would_do})
            assert taken.status_code == 202, would_do


async def test_without_a_broker_all_of_it_is_refused(environment: dict[str, str], laptop: str) -> None:
    async with proxy_to(environment["AMQP_URL"]) as broker:
        environment["AMQP_URL"] = broker.url(environment["AMQP_URL"])
        async with ingesting(environment) as ingest:
            assert (await post(ingest, [item(laptop)])).status_code == 202
            broker.go_away()

            async def refused() -> httpx.Response | None:
                response = await post(ingest, [item(laptop)] * 3)
                return response if response.status_code == 503 else None

            await eventually(refused)  # what was on its way when the line was cut is unknown
            check_problem(await post(ingest, [item(laptop)] * 3), 503, "broker-unavailable")


async def test_p5_a_bulk_request_with_a_key_is_the_same_orders_again(
    environment: dict[str, str], ingest: Ingest, laptop: str
) -> None:
    items = [item(laptop, 1), item(laptop, 0), item(laptop, 1)]
    first = await post(ingest, items, **KEY)
    assert first.status_code == 202

    async def replayed() -> httpx.Response | None:
        again = await post(ingest, items, **KEY)
        return again if "idempotency-replayed" in again.headers else None

    assert (await eventually(replayed)).content == first.content
    check_problem(await post(ingest, items[:2], **KEY), 422, "key-reused")
    # A single order with the key of a bulk request is another order.
    assert (await ingest.order(laptop, **KEY)).json()["id"] not in {it.get("id") for it in first.json()}
    async with persist_worker(environment) as worker, connected(environment["DATABASE_URL"]) as connection:
        while len(await stored_orders(connection)) < 3:
            await worker.run_once()


async def test_p5_without_redis_a_bulk_request_is_stored_once(environment: dict[str, str], laptop: str) -> None:
    async with proxy_to(environment["REDIS_URL"]) as redis:
        redis.go_away()
        without = {**environment, "REDIS_URL": redis.url(environment["REDIS_URL"])}
        # Redis has forgotten the first request, so the answer waits until the orders are stored.
        async with service_process("persist_worker", environment), ingesting(without) as ingest:
            answers = [(await post(ingest, [item(laptop, 1), item(laptop, 2)], **KEY)).json() for _ in range(2)]
    ids = [[order["id"] for order in answer] for answer in answers]
    assert ids[0] == ids[1]
    async with connected(environment["DATABASE_URL"]) as connection:
        assert set(await stored_orders(connection)) == set(ids[0])


async def test_p5_a_bulk_retry_that_redis_forgot_is_the_same_orders_although_they_are_sold_out_now(
    environment: dict[str, str], laptop: str
) -> None:
    items = [item(laptop, 1), item(laptop, 0), item(laptop, 2)]
    async with ingesting(environment) as ingest, redis_client(environment["REDIS_URL"]) as redis:
        first = await post(ingest, items, **KEY)
        async with persist_worker(environment) as worker:
            await worker.run_once()
        await ingest.tell(topology.PRODUCT_SOLD_OUT, ProductEvent(laptop, 2, Decimal(1), 0))

        async def is_sold_out() -> bool:
            return (await ingest.order(laptop)).status_code == 409

        await eventually(is_sold_out)
        await redis.flushall()
        again = await post(ingest, items, **KEY)
    assert (again.status_code, again.content) == (202, first.content)


async def test_sold_out_is_a_problem_of_its_own_order(ingest: Ingest, laptop: str, database_url: str) -> None:
    sold_out = await insert_product(database_url, qty=0)
    response = await post(ingest, [item(sold_out), item(laptop)])
    assert [it["status"] for it in response.json()] == [409, "PENDING"]
    assert await ingest.metric('headrace_orders_refused_total{reason="out-of-stock"}') == 1


async def test_the_largest_body_is_read_whole_however_it_comes(ingest: Ingest, laptop: str) -> None:
    """In pieces of equal length, some of which the application has taken before the next one comes."""
    line = json.dumps(item(laptop)).encode()
    body = b"\n".join([line + b" " * (1_040 - len(line))] * 1_000)
    headers = {"Content-Type": "application/x-ndjson"}
    answers = [await ingest.client.post(BULK, content=body, headers=headers) for _ in range(16)]
    assert [it.status_code for it in answers] == [202] * 16


async def test_all_orders_together_have_a_limit_of_lines(ingest: Ingest, database_url: str) -> None:
    products = [await insert_product(database_url) for _ in range(50)]
    basket: dict[str, object] = {"lines": [item(it) for it in products]}
    assert len((await post(ingest, [basket] * 40)).json()) == 40
    one_more = await post(ingest, [*([basket] * 40), item(products[0])])
    check_problem(one_more, 422, "invalid-value")
    assert "2001 lines" in one_more.json()["detail"]
