"""P5 for reference and metadata: they are part of what is ordered, and each answer says those that are stored."""

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
from tests.support.services.ingest import ORDERS, Ingest, check_problem, ingesting
from tests.support.services.processes import service_process
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

DETAILS: dict[str, Any] = {"reference": "4711 ☃", "metadata": {"a\tb": "1", "c": '"2"', "é": ""}}
KEY = {"Idempotency-Key": "01a20267-97ad-7199-a6a6-540000cf26ec"}


async def ordered(ingest: Ingest, product_id: str, **details: Any) -> httpx.Response:
    body = {"productId": product_id, "quantity": 1, **details}
    return await ingest.client.post(ORDERS, json=body, headers=KEY)


async def ordered_in_bulk(ingest: Ingest, product_id: str, *details: Mapping[str, Any]) -> httpx.Response:
    body = [{"productId": product_id, "quantity": 1, **it} for it in details]
    return await ingest.client.post(f"{ORDERS}/bulk", json=body, headers=KEY)


async def settled(ingest: Ingest, product_id: str, **details: Any) -> httpx.Response:
    """The answer to a retry, once the request before it is settled."""

    async def answer() -> httpx.Response | None:
        again = await ordered(ingest, product_id, **details)
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
async def test_a_key_with_other_details_is_refused(ingest: Ingest, laptop: str, other: dict[str, Any]) -> None:
    assert (await ordered(ingest, laptop, **DETAILS)).status_code == 202
    check_problem(await ordered(ingest, laptop, **other), 422, "key-reused")
    assert len(await ingest.queued_orders()) == 1


async def test_pairs_in_another_order_are_the_same_request(ingest: Ingest, laptop: str) -> None:
    first = await ordered(ingest, laptop, **DETAILS)
    again = await settled(ingest, laptop, **reversed_pairs(DETAILS))
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    assert details_in([first.json()]) == {first.json()["id"]: DETAILS}
    assert len(await ingest.queued_orders()) == 1


async def test_a_bulk_request_with_other_details_is_refused_and_the_same_is_answered_again(
    ingest: Ingest, laptop: str
) -> None:
    first = await ordered_in_bulk(ingest, laptop, {}, DETAILS)

    async def answer() -> httpx.Response | None:
        again = await ordered_in_bulk(ingest, laptop, {}, reversed_pairs(DETAILS))
        return None if again.status_code == 409 else again

    again = await eventually(answer)
    assert (again.headers["idempotency-replayed"], again.json()) == ("true", first.json())
    check_problem(await ordered_in_bulk(ingest, laptop, DETAILS, {}), 422, "key-reused")
    assert len(await ingest.queued_orders()) == 2


@pytest.mark.parametrize("redis_is", ["emptied", "away"])
async def test_without_redis_a_retry_is_told_what_is_stored(
    environment: dict[str, str], laptop: str, redis: Redis, redis_is: str
) -> None:
    async with proxy_to(environment["REDIS_URL"]) as between, service_process("persist_worker", environment):
        environment["REDIS_URL"] = between.url(environment["REDIS_URL"])
        async with ingesting(environment) as ingest:
            first = await ordered(ingest, laptop, **DETAILS)
            async with connected(environment["DATABASE_URL"]) as connection:
                await eventually(lambda: connection.fetchval("SELECT count(*) FROM orders"))
            if redis_is == "away":
                between.go_away()
            else:
                await redis.flushall()
            again = await ordered(ingest, laptop, **reversed_pairs(DETAILS))
            assert again.status_code == 202
            assert again.json() == first.json()
            assert details_in([again.json()]) == {first.json()["id"]: DETAILS}


async def test_a_retry_of_a_parked_order_is_told_what_a_replay_will_store(
    environment: dict[str, str], ingest: Ingest, laptop: str, redis: Redis
) -> None:
    first = await ordered(ingest, laptop, **DETAILS)
    async with connected(environment["DATABASE_URL"]) as connection:
        (parked,) = map(decode_order, await ingest.queued_orders())
        await park_orders(connection, Stage.PERSIST, parked, reason=Reason.INVALID_DATA)
    await redis.flushall()
    again = await settled(ingest, laptop, **DETAILS)
    assert (again.status_code, again.json()) == (202, first.json())
