"""P5 for reference, metadata and lines: they are part of what is ordered, and every answer says what is stored."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from pipeline.contract.orders import decode_order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from tests.support.data.detailed_orders import details_in
from tests.support.faults.faults import proxy_to
from tests.support.scenes.replays import park_orders
from tests.support.services.ingest import ORDERS, Ingest, check_problem, ingesting, insert_product
from tests.support.services.processes import service_process
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

DETAILS: dict[str, Any] = {"reference": "4711 ☃", "metadata": {"a\tb": "1", "c": '"2"', "é": ""}}
KEY = {"Idempotency-Key": "01a20267-97ad-7199-a6a6-540000cf26ec"}


@pytest.fixture
async def mouse(database_url: str) -> str:
    return await insert_product(database_url, "19.90", 50)


@pytest.fixture(params=["one product", "one line", "two lines"])
def goods(request: pytest.FixtureRequest, laptop: str, mouse: str) -> dict[str, Any]:
    """What is ordered, without details."""
    one, other = {"productId": laptop, "quantity": 1}, {"productId": mouse, "quantity": 2}
    shapes: dict[str, dict[str, Any]] = {"one product": one, "one line": {"lines": [one]}}
    return shapes.get(request.param, {"lines": [one, other]})


async def ordered(ingest: Ingest, goods: dict[str, Any], **details: Any) -> httpx.Response:
    return await ingest.client.post(ORDERS, json={**goods, **details}, headers=KEY)


async def ordered_in_bulk(ingest: Ingest, goods: dict[str, Any], *details: Mapping[str, Any]) -> httpx.Response:
    body = [{**goods, **it} for it in details]
    return await ingest.client.post(f"{ORDERS}/bulk", json=body, headers=KEY)


async def settled(ingest: Ingest, goods: dict[str, Any], **details: Any) -> httpx.Response:
    """The answer to a retry, once the request before it is settled."""

    async def answer() -> httpx.Response | None:
        again = await ordered(ingest, goods, **details)
        return None if again.status_code == 409 else again

    return await eventually(answer)


def reversed_pairs(details: Mapping[str, Any]) -> dict[str, Any]:
    return {"metadata": dict(reversed(details["metadata"].items())), "reference": details["reference"]}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"reference": "4712"},
        {"reference": DETAILS["reference"]},
        {"metadata": DETAILS["metadata"]},
        DETAILS | {"metadata": {"a": "b"}},
    ],
    ids=["neither", "another reference", "no metadata", "no reference", "other metadata"],
)
async def test_a_key_with_other_details_is_refused(
    ingest: Ingest, goods: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (await ordered(ingest, goods, **DETAILS)).status_code == 202
    check_problem(await ordered(ingest, goods, **other), 422, "key-reused")
    assert len(await ingest.queued_orders()) == 1


async def test_pairs_in_another_order_are_the_same_request(ingest: Ingest, goods: dict[str, Any]) -> None:
    first = await ordered(ingest, goods, **DETAILS)
    again = await settled(ingest, goods, **reversed_pairs(DETAILS))
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    assert details_in([first.json()]) == {first.json()["id"]: DETAILS}
    assert len(await ingest.queued_orders()) == 1


async def test_a_bulk_request_with_other_details_is_refused_and_the_same_is_answered_again(
    ingest: Ingest, goods: dict[str, Any]
) -> None:
    first = await ordered_in_bulk(ingest, goods, {}, DETAILS)

    async def answer() -> httpx.Response | None:
        again = await ordered_in_bulk(ingest, goods, {}, reversed_pairs(DETAILS))
        return None if again.status_code == 409 else again

    again = await eventually(answer)
    assert (again.headers["idempotency-replayed"], again.json()) == ("true", first.json())
    check_problem(await ordered_in_bulk(ingest, goods, DETAILS, {}), 422, "key-reused")
    assert len(await ingest.queued_orders()) == 2


@pytest.mark.parametrize("redis_is", ["emptied", "away"])
async def test_without_redis_a_retry_is_told_what_is_stored(
    environment: dict[str, str], goods: dict[str, Any], redis: Redis, redis_is: str
) -> None:
    async with proxy_to(environment["REDIS_URL"]) as between, service_process("persist_worker", environment):
        environment["REDIS_URL"] = between.url(environment["REDIS_URL"])
        async with ingesting(environment) as ingest:
            first = await ordered(ingest, goods, **DETAILS)
            async with connected(environment["DATABASE_URL"]) as connection:
                await eventually(lambda: connection.fetchval("SELECT count(*) FROM orders"))
            if redis_is == "away":
                between.go_away()
            else:
                await redis.flushall()
            again = await ordered(ingest, goods, **reversed_pairs(DETAILS))
            assert again.status_code == 202
            assert again.json() == first.json()
            assert details_in([again.json()]) == {first.json()["id"]: DETAILS}


async def test_a_retry_of_a_parked_order_is_told_what_a_replay_will_store(
    environment: dict[str, str], ingest: Ingest, goods: dict[str, Any], redis: Redis
) -> None:
    first = await ordered(ingest, goods, **DETAILS)
    async with connected(environment["DATABASE_URL"]) as connection:
        (parked,) = map(decode_order, await ingest.queued_orders())
        await park_orders(connection, Stage.PERSIST, parked, reason=Reason.INVALID_DATA)
    await redis.flushall()
    again = await settled(ingest, goods, **DETAILS)
    assert (again.status_code, again.json()) == (202, first.json())


async def test_a_key_with_other_lines_or_in_another_shape_is_refused(ingest: Ingest, laptop: str, mouse: str) -> None:
    one, other = {"productId": laptop, "quantity": 1}, {"productId": mouse, "quantity": 2}
    assert (await ordered(ingest, {"lines": [one, other]})).status_code == 202
    others: list[dict[str, Any]] = [
        {"lines": [other, one]},
        {"lines": [one, other | {"quantity": 3}]},
        {"lines": [one]},
        one,
    ]
    for goods in others:
        check_problem(await ordered(ingest, goods), 422, "key-reused")
    again = await settled(ingest, {"lines": [one | {"productId": laptop.upper()}, other]})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert len(await ingest.queued_orders()) == 1


async def test_a_bulk_request_with_baskets_that_were_refused_is_answered_again_with_the_lines_to_blame(
    ingest: Ingest, laptop: str, mouse: str
) -> None:
    """The claim remembers them: by the time of the retry, the products may be on sale."""
    unknown = "01a20267-97ad-7199-a6a6-540000cf26ee"
    good, bad = ([{"productId": it, "quantity": 1} for it in (laptop, product)] for product in (mouse, unknown))
    body = [{"lines": good}, {"lines": bad}, {"productId": mouse, "quantity": 1}]
    first = await ingest.client.post(f"{ORDERS}/bulk", json=body, headers=KEY)
    assert [it.get("status") for it in first.json()] == ["PENDING", 422, "PENDING"]
    assert [it["pointer"] for it in first.json()[1]["errors"]] == ["#/1/lines/1/productId"]

    async def answer() -> httpx.Response | None:
        again = await ingest.client.post(f"{ORDERS}/bulk", json=body, headers=KEY)
        return None if again.status_code == 409 else again

    again = await eventually(answer)
    assert (again.headers["idempotency-replayed"], again.json()) == ("true", first.json())
