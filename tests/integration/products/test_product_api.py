"""product_api on real servers: what a client is promised about creating, reading, changing and deleting products."""

import json
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aio_pika
import httpx
import pytest

from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent, decode_event
from product_api.app import make_app
from product_api.settings import ProductSettings
from tests.support.scenes.products import LAPTOP, OVERWRITE, create
from tests.support.services.processes import running
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually


def _exact(response: httpx.Response) -> Any:
    return json.loads(response.text, parse_float=str)


# ── create, read, change, delete


async def test_a_created_product_is_answered_in_full_and_found_where_location_says(api: httpx.AsyncClient) -> None:
    created = await api.post("/products", json=LAPTOP)
    product = created.json()
    assert created.status_code == 201
    assert created.headers["ETag"] == '"1"'
    assert created.headers["Location"] == f"/products/{product['id']}"
    assert list(product) == ["id", "name", "price", "qty", "createdAt"]
    assert product | LAPTOP == product
    assert abs((datetime.now(UTC) - datetime.fromisoformat(product["createdAt"])).total_seconds()) < 10
    for _ in ("from the database", "from the cache"):
        found = await api.get(created.headers["Location"])
        assert (found.status_code, found.content, found.headers["ETag"]) == (200, created.content, '"1"')


@pytest.mark.parametrize(
    ("sent", "answered"), [("1500", "1500.00"), ("0.1", "0.10"), ("9999999999.99", "9999999999.99")]
)
async def test_prices_are_numbers_with_their_exact_decimal_digits(
    api: httpx.AsyncClient, sent: str, answered: str
) -> None:
    body = f'{{"name": "x", "price": {sent}, "qty": 0}}'
    created = await api.post("/products", content=body, headers={"Content-Type": "application/json"})
    assert f'"price":{answered},' in created.text
    for _ in ("from the database", "from the cache"):
        assert _exact(await api.get(created.headers["Location"]))["price"] == answered
    assert _exact(await api.get("/products"))[0]["price"] == answered


async def test_put_replaces_a_product(api: httpx.AsyncClient) -> None:
    path = await create(api)
    replaced = await api.put(path, json={"name": "Book", "price": 9.9, "qty": 3}, headers={"If-Match": '"1"'})
    assert (replaced.status_code, replaced.headers["ETag"]) == (200, '"2"')
    assert replaced.json() | {"name": "Book", "price": 9.9, "qty": 3} == replaced.json()
    assert (await api.get(path)).content == replaced.content
    assert (await api.put(path, json={"name": "Book"})).status_code == 422


@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json"])
async def test_patch_changes_only_what_it_names(api: httpx.AsyncClient, media_type: str) -> None:
    path = await create(api)
    patched = await api.patch(path, content=b'{"price": 1399.50}', headers={"Content-Type": media_type})
    assert patched.status_code == 200
    assert patched.json() | {"name": LAPTOP["name"], "price": 1399.5, "qty": 50} == patched.json()
    assert (await api.get(path)).content == patched.content


@pytest.mark.parametrize("media_type", ["application/problem+json", "application/json-patch+json", "text/json"])
async def test_a_patch_in_any_other_format_is_not_applied(api: httpx.AsyncClient, media_type: str) -> None:
    path = await create(api)
    refused = await api.patch(path, content=b'{"name": "x"}', headers={"Content-Type": media_type})
    assert (refused.status_code, refused.json()["type"]) == (415, "/docs/problems/not-json")
    assert refused.headers["Accept-Patch"] == "application/merge-patch+json, application/json"
    assert (await api.get(path)).json()["name"] == LAPTOP["name"]
    restock = await api.post(
        f"{path}/restock", content=b'{"quantity": 1}', headers={"Content-Type": "application/merge-patch+json"}
    )
    assert (restock.status_code, restock.headers["Accept"]) == (415, "application/json")


async def test_a_deleted_product_is_gone_for_reads_and_changes(api: httpx.AsyncClient) -> None:
    path = await create(api)
    await api.get(path)
    assert (await api.delete(path)).status_code == 204
    assert (await api.get("/products")).json() == []
    for response in (
        await api.get(path),
        await api.put(path, json=LAPTOP, headers=OVERWRITE),
        await api.patch(path, json={}),
        await api.post(f"{path}/restock", json={"quantity": 1}),
        await api.delete(path),
    ):
        assert (response.status_code, response.headers["Content-Type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("product_id", ["01a20267-97ad-7199-a6a6-540000cf26ec", "1", "%00", "x" * 1000])
async def test_an_unknown_id_is_not_found(api: httpx.AsyncClient, product_id: str) -> None:
    assert (await api.get(f"/products/{product_id}")).status_code == 404


async def test_a_path_that_is_no_id_is_not_found(api: httpx.AsyncClient) -> None:
    """An id has one form, here and in ingest_api, so that no cache holds a product twice."""
    product_id = (await create(api)).rpartition("/")[2]
    for path in (f"{{{product_id}}}", f"urn:uuid:{product_id}", product_id.replace("-", ""), f"{product_id}/"):
        response = await api.get(f"/products/{path}")
        assert (response.status_code, response.headers["Content-Type"]) == (404, "application/problem+json")


async def test_an_id_may_be_written_in_capitals(api: httpx.AsyncClient) -> None:
    path = await create(api)
    product_id = path.rpartition("/")[2]
    assert (await api.get(f"/products/{product_id.upper()}")).json()["id"] == product_id


async def test_the_list_is_newest_first_and_complete_page_by_page(api: httpx.AsyncClient) -> None:
    paths = [await create(api, name=f"product {number}") for number in range(5)]
    await api.delete(paths.pop(2))
    seen, url = [], "/products?limit=3"
    while url:
        page = await api.get(url)
        seen += [f"/products/{product['id']}" for product in page.json()]
        url = page.links.get("next", {}).get("url", "")
    assert seen == paths[::-1]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "limit=-1", "limit=²", "before=x", "before=bm8"])
async def test_a_bad_page_is_refused(api: httpx.AsyncClient, query: str) -> None:
    assert (await api.get(f"/products?{query}")).status_code == 422


async def test_what_is_wrong_with_a_request_is_said(api: httpx.AsyncClient) -> None:
    invalid = await api.post("/products", json={**LAPTOP, "price": 0.001})
    assert invalid.status_code == 422
    assert invalid.json()["errors"][0]["pointer"] == "#/price"
    everything = await api.post("/products", json={"name": "", "price": -1, "qty": 1.5})
    assert [error["pointer"] for error in everything.json()["errors"]] == ["#/name", "#/price", "#/qty"]
    qty_twice = b'{"name": "x", "price": 1, "qty": 1, "qty": 2}'
    twice = await api.post("/products", content=qty_twice, headers={"Content-Type": "application/json"})
    assert (twice.status_code, '"qty" comes twice' in twice.json()["detail"]) == (400, True)
    plain = {"Content-Type": "text/plain"}
    assert (await api.post("/products", content=b"{}", headers=plain)).status_code == 415
    assert (await api.post("/products", json={**LAPTOP, "junk": "x" * 70_000})).status_code == 413
    not_allowed = await api.put("/products", json=LAPTOP)
    assert (not_allowed.status_code, set(not_allowed.headers["Allow"].split(", "))) == (405, {"GET", "HEAD", "POST"})


async def test_head_has_the_headers_of_get_and_no_body(api: httpx.AsyncClient) -> None:
    path = await create(api)
    head, get = await api.head(path), await api.get(path)
    assert (head.content, head.headers["ETag"], head.headers["Content-Length"]) == (b"", '"1"', str(len(get.content)))


# ── events


async def test_every_change_is_told_on_the_products_exchange(api: httpx.AsyncClient, amqp_url: str) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await topology.declare_product_events(await connection.channel())
        await eventually(lambda: _is_up(api, "broker"))
        path = await create(api, qty=5)
        await api.patch(path, json={"price": 1.25})
        await api.post(f"{path}/restock", json={"quantity": 2})
        await api.put(path, json={"name": "x", "price": 2, "qty": 0}, headers=OVERWRITE)
        await api.patch(path, json={"qty": 4}, headers=OVERWRITE)
        await api.delete(path)
        told = [await eventually(lambda: queue.get(fail=False)) for _ in range(6)]
    product_id, price = path.rpartition("/")[2], Decimal
    assert [(it.routing_key, decode_event(it.body)) for it in told] == [
        ("product.created", ProductEvent(product_id, 1, price("1500.00"), 5)),
        ("product.updated", ProductEvent(product_id, 2, price("1.25"), 5)),
        ("product.restocked", ProductEvent(product_id, 3, price("1.25"), 7)),
        ("product.sold_out", ProductEvent(product_id, 4, price("2.00"), 0)),
        ("product.restocked", ProductEvent(product_id, 5, price("2.00"), 4)),
        ("product.deleted", ProductEvent(product_id, 6, price("2.00"), 4, deleted=True)),
    ]


async def _is_up(api: httpx.AsyncClient, part: str) -> bool:
    return bool((await api.get("/health")).json()["parts"][part] == "ok")


async def test_a_change_of_which_nobody_hears_is_no_error(
    api: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    await eventually(lambda: _is_up(api, "broker"))
    await create(api)

    async def is_counted() -> bool:
        told = 'headrace_product_events_total{key="product.created",outcome="unroutable"}'
        return told in (await api.get("/metrics")).text

    await eventually(is_counted)
    assert "product event lost" not in capsys.readouterr().out


# ── health


async def test_health_names_the_parts(api: httpx.AsyncClient) -> None:
    async def all_up() -> bool:
        parts: dict[str, str] = (await api.get("/health")).json()["parts"]
        return parts == {"database": "ok", "broker": "ok", "redis": "ok"}

    assert await eventually(all_up)
    assert (await api.get("/livez")).status_code == 200


async def test_a_change_is_answered_promptly_also_when_the_broker_is_not_there(environment: dict[str, str]) -> None:
    environment["AMQP_URL"] = "amqp://guest:guest@127.0.0.1:1/%2F"
    app = make_app(settings_from(ProductSettings, environment, event_wait_s=60))
    async with running(app) as url, httpx.AsyncClient(base_url=url) as api:
        began = time.monotonic()
        path = await create(api)
        assert (await api.patch(path, json={"qty": 1}, headers=OVERWRITE)).status_code == 200
        assert time.monotonic() - began < 30
