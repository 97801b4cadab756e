"""An order of lines as its client sees it: accepted by every way in, decided as one, and answered in its shape."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from database.connection import Connection
from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent
from tests.support.scenes.replays import run_pipeline
from tests.support.services.ingest import ORDERS, Ingest, check_problem, insert_product
from tests.support.services.workers import assert_conserved, connected, qty_of
from tests.support.time.conditions import eventually

BULK = f"{ORDERS}/bulk"
UNKNOWN = "01a20267-97ad-7199-a6a6-540000cf26ee"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it
        await assert_conserved(it)


@pytest.fixture
async def mouse(database_url: str) -> str:
    """The id of a product of which there are 5, at 0.10."""
    return await insert_product(database_url, "0.10", 5)


def lines(*wanted: tuple[str, int]) -> dict[str, Any]:
    return {"lines": [{"productId": product_id, "quantity": quantity} for product_id, quantity in wanted]}


async def read_back(ingest: Ingest, accepted: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await ingest.get(f"{ORDERS}/{accepted['id']}?wait=10")).json()
    return answer


async def test_a_basket_is_answered_with_its_lines_and_their_sum(ingest: Ingest, laptop: str, mouse: str) -> None:
    answer = await ingest.client.post(ORDERS, json=lines((laptop, 2), (mouse, 3)))
    accepted = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"].endswith(f"{ORDERS}/{accepted['id']}")
    assert list(accepted) == ["id", "lines", "total_price", "created_at", "status"]
    assert b'"total_price":3000.30,' in answer.content
    assert accepted["lines"] == [
        {"line": 0, "product_id": laptop, "quantity": 2, "unit_price": 1500.0, "total_price": 3000.0},
        {"line": 1, "product_id": mouse, "quantity": 3, "unit_price": 0.1, "total_price": 0.3},
    ]


async def test_p2_p3_baskets_of_every_way_in_are_decided_as_one_and_read_as_they_were_answered(
    environment: dict[str, str], connection: Connection, ingest: Ingest, laptop: str, mouse: str
) -> None:
    basket, one_line, plain = lines((laptop, 1), (mouse, 1)), lines((mouse, 1)), {"productId": mouse, "quantity": 1}
    alone = [(await ingest.client.post(ORDERS, json=it)).json() for it in (basket, one_line)]
    array = (await ingest.client.post(BULK, json=[plain, basket])).json()
    ndjson = await ingest.client.post(
        BULK,
        content="\n".join(map(json.dumps, (one_line, basket, plain))),
        headers={"Content-Type": "application/x-ndjson"},
    )
    accepted = [*alone, *array, *ndjson.json()]
    assert [len(it.get("lines", [])) for it in accepted] == [2, 1, 0, 2, 1, 2, 0]
    await run_pipeline(environment)
    verdicts = [await read_back(ingest, it) for it in accepted]
    # The five mice go to the first five orders, in the order of acceptance.
    assert [it["status"] for it in verdicts] == ["PROCESSED"] * 5 + ["FAILED"] * 2
    assert [(it.get("failed_line"), it["units_left"]) for it in verdicts[5:]] == [(1, 0), (None, 0)]
    for before, after in zip(accepted, verdicts, strict=True):
        assert after == after | before | {"status": after["status"]}
    assert [await qty_of(connection, it) for it in (laptop, mouse)] == [48, 0]


async def test_the_door_refuses_a_basket_and_names_every_line_to_blame(
    ingest: Ingest, laptop: str, mouse: str, database_url: str
) -> None:
    other = await insert_product(database_url, "1.00", 5)
    wanted = lines((mouse, 1), (laptop, 1), (other, 1))
    check_problem(await ingest.client.post(ORDERS, json=lines((laptop, 1), (UNKNOWN, 1))), 422, "unknown-product")
    assert (await ingest.client.post(ORDERS, json=wanted)).status_code == 202
    for product_id in (mouse, other):
        await ingest.tell(topology.PRODUCT_SOLD_OUT, ProductEvent(product_id, 2, Decimal(1), 0))

    async def names(*pointers: str) -> bool:
        answer = await ingest.client.post(ORDERS, json=wanted)
        return [it["pointer"] for it in answer.json().get("errors", [])] == [*pointers]

    assert await eventually(lambda: names("#/lines/0/productId", "#/lines/2/productId"))
    check_problem(await ingest.client.post(ORDERS, json=wanted), 409, "out-of-stock")
    in_bulk = (await ingest.client.post(BULK, json=[wanted, lines((laptop, 1))])).json()
    assert [it["pointer"] for it in in_bulk[0]["errors"]] == ["#/0/lines/0/productId", "#/0/lines/2/productId"]
    assert in_bulk[1]["status"] == "PENDING"
    await ingest.tell(topology.PRODUCT_RESTOCKED, ProductEvent(mouse, 3, Decimal(1), 5))
    assert await eventually(lambda: names("#/lines/2/productId"))


async def test_a_bulk_request_may_hold_good_and_bad_baskets(ingest: Ingest, laptop: str, mouse: str) -> None:
    body = [
        lines((laptop, 1), (laptop, 2)),
        lines((laptop, 1), (mouse, 1)),
        lines(),
        lines((laptop, 1), (UNKNOWN, 1)),
        lines((laptop, 0)) | {"colour": "red"},
    ]
    answer = await ingest.client.post(BULK, json=body)
    assert (answer.status_code, [it["status"] for it in answer.json()]) == (202, [422, "PENDING", 422, 422, 422])
    assert [[error["pointer"] for error in it.get("errors", [])] for it in answer.json()] == [
        ["#/0/lines/1/productId"],
        [],
        ["#/2/lines"],
        ["#/3/lines/1/productId"],
        ["#/4/lines/0/quantity", "#/4/colour"],
    ]
    assert len(await ingest.queued_orders()) == 1


async def test_only_a_message_with_a_basket_says_schema_2(ingest: Ingest, laptop: str) -> None:
    plain, basket = {"productId": laptop, "quantity": 1}, lines((laptop, 1))
    requests: list[tuple[str, object]] = [
        (ORDERS, plain),
        (ORDERS, basket),
        (BULK, [plain] * 2),
        (BULK, [plain, basket]),
    ]
    for url, body in requests:
        assert (await ingest.client.post(url, json=body)).status_code == 202
    assert [it.headers["schema"] for it in await ingest.queued()] == [1, 2, 1, 2]
