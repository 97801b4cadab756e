"""A request with unknown members, unknown query parameters or a repeated parameter is refused, never half-ignored."""

import re
from collections.abc import Mapping

import httpx
import msgspec
import pytest

from pipeline.contract.fields import EXAMPLE_PRODUCT
from tests.support.services.ingest import ORDERS, Ingest, check_problem
from tests.support.services.processes import service_process

_VALUES = {
    "limit": "5",
    "before": "",
    "wait": "0",
    "after": "now",
    "types": "order.failed",
    "product": EXAMPLE_PRODUCT,
    "reference": "A-1",
    "status": "FAILED",
    "since": "2026-01-05T09:30:00Z",
    "until": "2026-01-05T09:30:00Z",
    "id": EXAMPLE_PRODUCT,
}


@pytest.mark.parametrize("api", ["ingest_api", "product_api"])
async def test_every_operation_refuses_a_query_that_it_does_not_take(api: str, environment: Mapping[str, str]) -> None:
    """Operations come from the OpenAPI documents, so a new one is tested here without naming it."""
    async with (
        service_process(api, environment, ready="/livez") as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as client,
    ):
        paths = (await client.get("/openapi.json")).json()["paths"]
        operations = [(method.upper(), path, it) for path, methods in paths.items() for method, it in methods.items()]
        assert len(operations) >= 8
        for method, path, operation in operations:
            path = re.sub(r"\{\w+\}", EXAMPLE_PRODUCT, path)
            takes = [it["name"] for it in operation["parameters"] if it["in"] == "query"]
            lists = [it["name"] for it in operation["parameters"] if it["schema"].get("type") == "array"]
            ignores = operation["operationId"] in ("describeService", "getLiveness", "getReadiness")
            await _try_unknown(client, method, path, refused=not ignores)
            for name in set(takes) - set(lists):
                await _try_twice(client, method, path, name, _VALUES[name])
            known = await client.request(method, path, params={name: _VALUES[name] for name in takes})
            assert "invalid-query" not in known.text
        for page in ("/docs", "/openapi.json", "/docs/problems", "/docs/problems/invalid-query"):
            assert (await client.get(f"{page}?utm_source=x")).status_code == 200


async def _try_unknown(client: httpx.AsyncClient, method: str, path: str, *, refused: bool) -> None:
    for asked in {method, "HEAD" if method == "GET" else method}:
        response = await client.request(asked, f"{path}?colour=red&x=1&x=2")
        if not refused:
            assert "invalid-query" not in response.text
            continue
        check_problem(response, 400, "invalid-query")
        if asked != "HEAD":
            assert [it["parameter"] for it in response.json()["errors"]] == ["colour", "x"]


async def _try_twice(client: httpx.AsyncClient, method: str, path: str, name: str, value: str) -> None:
    response = await client.request(method, f"{path}?{name}={value}&{name}={value}")
    check_problem(response, 400, "invalid-query")
    assert [it["parameter"] for it in response.json()["errors"]] == [name]


async def test_an_unknown_member_of_an_order_is_422_and_nothing_is_accepted(ingest: Ingest, laptop: str) -> None:
    order = {"productId": laptop, "quantity": 1}
    response = await ingest.client.post(ORDERS, json={**order, "customerId": 7, "a/b": None})
    check_problem(response, 422, "invalid-value")
    assert [it["pointer"] for it in response.json()["errors"]] == ["#/customerId", "#/a~1b"]

    orders = [order, order | {"customerId": 7}]
    as_lines = b"\n".join(map(msgspec.json.encode, orders))
    for body, media_type in ((msgspec.json.encode(orders), "application/json"), (as_lines, "application/x-ndjson")):
        headers = {"Content-Type": media_type}
        response = await ingest.client.post(f"{ORDERS}/bulk", content=body, headers=headers)
        assert response.status_code == 202
        good, bad = response.json()
        assert good["status"] == "PENDING"
        assert (bad["status"], [it["pointer"] for it in bad["errors"]]) == (422, ["#/1/customerId"])
    assert len(await ingest.queued_orders()) == 2


async def test_an_unknown_member_of_a_product_is_422_and_nothing_is_changed(environment: Mapping[str, str]) -> None:
    product = {"name": "Laptop", "price": 1500, "qty": 50}
    async with (
        service_process("product_api", environment) as service,
        httpx.AsyncClient(base_url=service.url, timeout=15, headers={"If-Match": "*"}) as client,
    ):
        created = await client.post("/products", json=product)
        path = created.headers["location"]
        tries = (("POST", "/products", product), ("PUT", path, product), ("PATCH", path, {"price": 1}))
        for method, at, body in (*tries, ("POST", f"{path}/restock", {"quantity": 1})):
            response = await client.request(method, at, json={**body, "currency": "EUR"})
            check_problem(response, 422, "invalid-value")
            assert [it["pointer"] for it in response.json()["errors"]] == ["#/currency"]
        assert (await client.get("/products")).json() == [created.json()]
