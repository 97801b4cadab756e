"""The API documents as a client developer meets them: over a socket, served by the service alone."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from pipeline.contract.api_keys import new_token
from tests.support.data.api_keys import key_of, write_keys
from tests.support.data.json_schema import check
from tests.support.services.ingest import ingesting, insert_product
from tests.support.services.processes import service_process
from web.problems.kinds import KINDS

Json = Any


@pytest.fixture(params=["ingest_api", "product_api"])
async def guarded(
    request: pytest.FixtureRequest, environment: Mapping[str, str], tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key, of an API with keys."""
    keys = tmp_path / "keys.json"
    write_keys(keys, key_of(new_token()))
    async with (
        service_process(request.param, {**environment, "API_KEYS_FILE": str(keys)}) as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as client,
    ):
        yield client


async def test_every_type_of_problem_resolves_for_everybody(guarded: httpx.AsyncClient) -> None:
    for kind in KINDS.values():
        page = await guarded.get(kind.type)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert kind.title in page.text.replace("&#x27;", "'")


async def test_every_link_on_the_pages_leads_somewhere_on_this_host(guarded: httpx.AsyncClient) -> None:
    seen, waiting = set(), {"/docs"}
    while waiting:
        path = waiting.pop()
        seen.add(path)
        response = await guarded.get(path, headers={"Accept": "text/html"})
        if path in ("/health", "/readyz"):  # for operators; needs the broker and the database
            continue
        assert response.status_code == 200, path
        if response.headers["content-type"].startswith("text/html"):
            links = {urljoin(path, it) for it in re.findall(r'(?:href|src)="([^"]+)"', response.text)}
            assert all(not urlsplit(it).netloc for it in links)
            waiting |= {urlsplit(it).path for it in links if not it.startswith("data:")} - seen
    assert {it.type for it in KINDS.values()} < seen
    assert {"/", "/docs", "/openapi.json", "/docs/swagger-ui-bundle.js", "/docs/docs.js"} < seen


async def test_the_page_runs_nothing_from_elsewhere_and_nothing_inline(guarded: httpx.AsyncClient) -> None:
    page = await guarded.get("/docs")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", page.text) == []


async def test_what_has_not_changed_is_not_sent_again(guarded: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json", "/docs/swagger-ui-bundle.js"):
        first = await guarded.get(path)
        again = await guarded.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_it_can_be_read_and_nothing_else(guarded: httpx.AsyncClient) -> None:
    assert (await guarded.head("/openapi.json")).status_code == 200
    assert (await guarded.post("/openapi.json")).status_code == 405
    assert (await guarded.get("/docs/problems/unheard-of")).status_code == 404


async def test_what_is_public_in_the_document_is_public_and_the_rest_is_not(guarded: httpx.AsyncClient) -> None:
    document = (await guarded.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            response = await guarded.request(method, re.sub("{.+}", "01a20267-97ad-8199-a6a6-540000cf26ec", path))
            assert (response.status_code == 401) == bool(operation["security"]), (method, path)
            check_answer(response, document, operation["operationId"])


async def test_asyncapi_is_there(environment: Mapping[str, str]) -> None:
    async with ingesting(environment, ready="/livez") as ingest:
        assert (await ingest.get("/asyncapi.json")).json()["asyncapi"] == "3.0.0"


async def test_what_is_answered_about_orders_is_what_the_document_says(
    environment: Mapping[str, str], database_url: str
) -> None:
    product_id = await insert_product(database_url, "0.10")
    async with ingesting(environment) as ingest:
        document = (await ingest.get("/openapi.json")).json()
        order = await ingest.order(product_id, **{"Idempotency-Key": "a"})
        check_answer(order, document, "acceptOrder", 202)
        check_answer(await ingest.order(product_id, 0), document, "acceptOrder", 422)
        bulk = [{"productId": product_id, "quantity": 1}, {"productId": "x", "quantity": 1}]
        check_answer(await ingest.client.post("/api/v1/orders/bulk", json=bulk), document, "acceptOrders", 202)
        check_answer(await ingest.client.post("/api/v1/orders/bulk", json=bulk[1:]), document, "acceptOrders", 422)
        check_answer(await ingest.get(order.headers["location"]), document, "getOrder", 200)
        check_answer(await ingest.get(f"/api/v1/orders/{product_id}"), document, "getOrder", 404)
        check_answer(await ingest.get(f"/api/v1/orders/product/{product_id}"), document, "listOrdersOfProduct", 200)
        for path, operation_id in (("/livez", "getLiveness"), ("/readyz", "getReadiness"), ("/health", "getHealth")):
            check_answer(await ingest.get(path), document, operation_id, 200)
        check_answer(await ingest.get("/metrics"), document, "getMetrics", 200)


async def test_what_is_answered_about_products_is_what_the_document_says(environment: Mapping[str, str]) -> None:
    async with (
        service_process("product_api", environment) as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as client,
    ):
        document = (await client.get("/openapi.json")).json()
        product = {"name": "Laptop Demo", "price": "19.99", "qty": 3}
        created = await client.post("/products", json=product)
        check_answer(created, document, "createProduct", 201)
        path, seen = created.headers["location"], {"If-Match": created.headers["etag"]}
        check_answer(await client.post("/products", json={"price": -1}), document, "createProduct", 422)
        check_answer(await client.get(path), document, "getProduct", 200)
        check_answer(await client.get(path, headers={"If-None-Match": "*"}), document, "getProduct", 304)
        check_answer(await client.get("/products?limit=1"), document, "listProducts", 200)
        check_answer(await client.get("/products?limit=0"), document, "listProducts", 422)
        check_answer(await client.post(f"{path}/restock", json={"quantity": 1}), document, "restockProduct", 200)
        check_answer(await client.put(path, json=product, headers=seen), document, "replaceProduct", 412)
        check_answer(await client.put(path, json=product, headers={"If-Match": "*"}), document, "replaceProduct", 200)
        check_answer(await client.patch(path, json={"price": 0.1}), document, "patchProduct", 200)
        check_answer(await client.delete(path), document, "deleteProduct", 204)
        check_answer(await client.delete(path), document, "deleteProduct", 404)


def check_answer(response: httpx.Response, document: Json, operation_id: str, status: int | None = None) -> None:
    """Assert that status, media type, headers and body match the document of the operation."""
    if status is not None:
        assert response.status_code == status, response.text
    (operation,) = (
        it for path in document["paths"].values() for it in path.values() if it["operationId"] == operation_id
    )
    described = operation["responses"][str(response.status_code)]
    for name, header in described.get("headers", {}).items():
        if header["required"]:
            assert name in response.headers
    if response.content:
        media_type = response.headers["content-type"].partition(";")[0]
        body = response.json() if media_type.endswith("json") else response.text
        check(body, described["content"][media_type]["schema"], document)
