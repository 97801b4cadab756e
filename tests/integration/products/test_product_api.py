"""product_api against real servers: what a client is promised about products."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aio_pika
import asyncpg
import httpx
import pytest

from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent, decode_event
from product_api.app import make_app
from product_api.settings import ProductSettings
from tests.support.data.products import Audit
from tests.support.services.processes import running
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually

LAPTOP = {"name": "Laptop Demo", "price": 1500, "qty": 50}
OVERWRITE = {"If-Match": "*"}


@pytest.fixture
async def api(environment: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(settings_from(ProductSettings, environment))
    async with running(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client


async def _create(api: httpx.AsyncClient, **values: object) -> str:
    """The path of a new product."""
    response = await api.post("/products", json={**LAPTOP, **values})
    assert response.status_code == 201, response.text
    return response.headers["Location"]


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
    path = await _create(api)
    replaced = await api.put(path, json={"name": "Book", "price": 9.9, "qty": 3}, headers={"If-Match": '"1"'})
    assert (replaced.status_code, replaced.headers["ETag"]) == (200, '"2"')
    assert replaced.json() | {"name": "Book", "price": 9.9, "qty": 3} == replaced.json()
    assert (await api.get(path)).content == replaced.content
    assert (await api.put(path, json={"name": "Book"})).status_code == 422


@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json"])
async def test_patch_changes_only_what_it_names(api: httpx.AsyncClient, media_type: str) -> None:
    path = await _create(api)
    patched = await api.patch(path, content=b'{"price": 1399.50}', headers={"Content-Type": media_type})
    assert patched.status_code == 200
    assert patched.json() | {"name": LAPTOP["name"], "price": 1399.5, "qty": 50} == patched.json()
    assert (await api.get(path)).content == patched.content


@pytest.mark.parametrize("media_type", ["application/problem+json", "application/json-patch+json", "text/json"])
async def test_a_patch_in_any_other_format_is_not_applied(api: httpx.AsyncClient, media_type: str) -> None:
    path = await _create(api)
    refused = await api.patch(path, content=b'{"name": "x"}', headers={"Content-Type": media_type})
    assert (refused.status_code, refused.json()["type"]) == (415, "/docs/problems/not-json")
    assert refused.headers["Accept-Patch"] == "application/merge-patch+json, application/json"
    assert (await api.get(path)).json()["name"] == LAPTOP["name"]
    restock = await api.post(
        f"{path}/restock", content=b'{"quantity": 1}', headers={"Content-Type": "application/merge-patch+json"}
    )
    assert (restock.status_code, restock.headers["Accept"]) == (415, "application/json")


async def test_a_deleted_product_is_gone_for_reads_and_changes(api: httpx.AsyncClient) -> None:
    path = await _create(api)
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
    """An id has one form, here as in ingest_api, so that nobody's cache holds a product twice."""
    product_id = (await _create(api)).rpartition("/")[2]
    for path in (f"{{{product_id}}}", f"urn:uuid:{product_id}", product_id.replace("-", ""), f"{product_id}/"):
        response = await api.get(f"/products/{path}")
        assert (response.status_code, response.headers["Content-Type"]) == (404, "application/problem+json")


async def test_an_id_may_be_written_in_capitals(api: httpx.AsyncClient) -> None:
    path = await _create(api)
    product_id = path.rpartition("/")[2]
    assert (await api.get(f"/products/{product_id.upper()}")).json()["id"] == product_id


async def test_the_list_is_newest_first_and_complete_page_by_page(api: httpx.AsyncClient) -> None:
    paths = [await _create(api, name=f"product {number}") for number in range(5)]
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
    path = await _create(api)
    head, get = await api.head(path), await api.get(path)
    assert (head.content, head.headers["ETag"], head.headers["Content-Length"]) == (b"", '"1"', str(len(get.content)))


# ── preconditions


async def test_a_change_with_an_old_etag_is_refused_and_changes_nothing(api: httpx.AsyncClient, audit: Audit) -> None:
    path = await _create(api)
    await api.patch(path, json={"qty": 51}, headers=OVERWRITE)
    old = {"If-Match": '"1"'}
    for response in (
        await api.put(path, json=LAPTOP, headers=old),
        await api.patch(path, json={"qty": 1}, headers=old),
        await api.post(f"{path}/restock", json={"quantity": 1}, headers=old),
        await api.delete(path, headers=old),
    ):
        assert (response.status_code, response.json()["type"]) == (412, "/docs/problems/version-mismatch")
    found = await api.get(path)
    assert (found.json()["qty"], found.headers["ETag"]) == (51, '"2"')
    assert await audit.unbalanced() == []


@pytest.mark.parametrize("tags", ['W/"1"', '"7", W/"1"'])
async def test_a_change_with_a_weak_etag_is_told_so_and_not_that_the_product_changed(
    api: httpx.AsyncClient, tags: str
) -> None:
    path = await _create(api)
    weak = {"If-Match": tags}
    for response in (
        await api.put(path, json=LAPTOP, headers=weak),
        await api.patch(path, json={"qty": 1}, headers=weak),
        await api.post(f"{path}/restock", json={"quantity": 1}, headers=weak),
        await api.delete(path, headers=weak),
    ):
        assert (response.status_code, response.json()["type"]) == (412, "/docs/problems/weak-etag")
        assert "has changed" not in response.text
    found = await api.get(path)
    assert (found.json()["qty"], found.headers["ETag"]) == (50, '"1"')
    assert (await api.patch(path, json={"price": 1}, headers={"If-Match": found.headers["ETag"]})).status_code == 200


@pytest.mark.parametrize("tags", ["*", '"1"', 'W/"1"', '"7", "1"'])
async def test_a_change_of_a_version_that_is_excluded_is_refused_and_changes_nothing(
    api: httpx.AsyncClient, audit: Audit, tags: str
) -> None:
    """RFC 9110, section 13.1.2: what If-None-Match matches, no method but GET and HEAD is performed on."""
    path = await _create(api)
    excluded = {"If-None-Match": tags}
    for response in (
        await api.put(path, json={**LAPTOP, "qty": 1}, headers=excluded | OVERWRITE),
        await api.patch(path, json={"price": 1}, headers=excluded),
        await api.patch(path, json={"qty": 1}, headers=excluded | {"If-Match": '"1"'}),
        await api.post(f"{path}/restock", json={"quantity": 1}, headers=excluded),
        await api.delete(path, headers=excluded),
    ):
        assert (response.status_code, response.json()["type"]) == (412, "/docs/problems/version-mismatch")
        assert "If-None-Match" in response.json()["detail"]
    found = await api.get(path)
    assert (found.json() | LAPTOP, found.headers["ETag"]) == (found.json(), '"1"')
    assert await audit.adjustments(path.rpartition("/")[2]) == [(50, "creation")]


async def test_a_change_of_another_version_than_the_excluded_is_made(api: httpx.AsyncClient) -> None:
    path = await _create(api)
    others = {"If-None-Match": '"2", "3"'}
    assert (await api.patch(path, json={"price": 1}, headers=others)).status_code == 200
    assert (await api.patch(path, json={"price": 2}, headers=others)).status_code == 412
    assert (await api.delete(path, headers={"If-None-Match": '"1"'})).status_code == 204
    # Of what is not there, no version is excluded.
    assert (await api.delete(path, headers={"If-None-Match": "*"})).status_code == 404


async def test_what_would_write_over_qty_unseen_is_refused_without_an_if_match(
    api: httpx.AsyncClient, audit: Audit
) -> None:
    path = await _create(api)
    for response in (
        await api.put(path, json=LAPTOP),
        await api.patch(path, json={"qty": 50}),
        await api.patch(path, json={"name": "Book", "qty": 1}),
    ):
        assert (response.status_code, response.json()["type"]) == (428, "/docs/problems/precondition-required")
        assert response.headers["Content-Type"] == "application/problem+json"
    found = await api.get(path)
    assert (found.json() | LAPTOP, found.headers["ETag"]) == (found.json(), '"1"')
    assert (await api.patch(path, json={"name": "Book"})).status_code == 200
    assert (await api.post(f"{path}/restock", json={"quantity": 1})).status_code == 200
    assert (await api.put(path, json=LAPTOP, headers=OVERWRITE)).status_code == 200
    assert (await api.patch(path, json={"qty": 3}, headers={"If-Match": '"4"'})).status_code == 200
    assert await audit.unbalanced() == []
    assert (await api.delete(path)).status_code == 204


async def test_of_writers_with_the_same_etag_one_wins(api: httpx.AsyncClient) -> None:
    path = await _create(api)
    tag = {"If-Match": '"1"'}
    answers = await asyncio.gather(*(api.patch(path, json={"qty": n}, headers=tag) for n in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9


async def test_a_client_that_has_the_version_is_told_so(api: httpx.AsyncClient) -> None:
    path = await _create(api)
    known = await api.get(path, headers={"If-None-Match": 'W/"1"'})
    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", '"1"')
    await api.patch(path, json={"qty": 1}, headers=OVERWRITE)
    assert (await api.get(path, headers={"If-None-Match": '"1"'})).status_code == 200


@pytest.mark.parametrize("patch", [{}, {"price": "1500.00"}, {"name": " Laptop Demo ", "price": 1500, "qty": 50}])
async def test_a_change_that_changes_nothing_writes_nothing_and_tells_nobody(
    api: httpx.AsyncClient, audit: Audit, amqp_url: str, patch: dict[str, object]
) -> None:
    path = await _create(api)
    product_id = path.rpartition("/")[2]
    row = "SELECT xmin::text FROM products WHERE id = $1"
    written = await audit.connection.fetchval(row, product_id)
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await topology.declare_product_events(await connection.channel())
        same = await api.patch(path, json=patch, headers=OVERWRITE)
        assert (same.status_code, same.headers["ETag"], same.content) == (200, '"1"', (await api.get(path)).content)
        assert await audit.connection.fetchval(row, product_id) == written
        assert (await api.put(path, json=LAPTOP, headers=OVERWRITE)).headers["ETag"] == '"1"'
        assert (await api.patch(path, json=patch, headers={"If-Match": '"7"'})).status_code == 412
        # What is told comes in order: the next change is the first that is heard of.
        assert (await api.patch(path, json={"price": 2})).headers["ETag"] == '"2"'
        told = await queue.get(timeout=5)
    assert decode_event(told.body) == ProductEvent(product_id, 2, Decimal("2.00"), 50)
    assert await audit.adjustments(product_id) == [(50, "creation")]


# ── stock


async def test_every_change_of_qty_is_written_down_with_its_reason(api: httpx.AsyncClient, audit: Audit) -> None:
    path = await _create(api, qty=50)
    await api.put(path, json={**LAPTOP, "qty": 40}, headers=OVERWRITE)
    await api.patch(path, json={"price": 1})
    await api.patch(path, json={"qty": 45}, headers=OVERWRITE)
    await api.post(f"{path}/restock", json={"quantity": 5})
    await api.delete(path)
    assert await audit.adjustments(path.rpartition("/")[2]) == [
        (50, "creation"),
        (-10, "correction"),
        (5, "correction"),
        (5, "restock"),
    ]
    assert await audit.unbalanced() == []


async def test_a_product_created_without_stock_has_nothing_to_write_down(api: httpx.AsyncClient, audit: Audit) -> None:
    path = await _create(api, qty=0)
    assert await audit.adjustments(path.rpartition("/")[2]) == []
    restocked = await api.post(f"{path}/restock", json={"quantity": 3})
    assert (restocked.status_code, restocked.json()["qty"]) == (200, 3)


async def test_a_restock_past_the_limit_is_refused_and_changes_nothing(api: httpx.AsyncClient, audit: Audit) -> None:
    path = await _create(api, qty=10**15)
    refused = await api.post(f"{path}/restock", json={"quantity": 1})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/quantity")
    assert (await api.get(path)).headers["ETag"] == '"1"'


async def test_concurrent_restocks_corrections_and_orders_keep_the_books_balanced(
    api: httpx.AsyncClient, audit: Audit, database_url: str
) -> None:
    path = await _create(api, qty=100)
    product_id = path.rpartition("/")[2]
    async with asyncpg.create_pool(database_url, min_size=3, max_size=3) as pool:
        answers = await asyncio.gather(
            *(api.post(f"{path}/restock", json={"quantity": 7}) for _ in range(30)),
            # Each with a name of its own: one that happens to set the qty that there is would be no change.
            *(api.put(path, json={**LAPTOP, "name": f"put {n}", "qty": 50 + n}, headers=OVERWRITE) for n in range(15)),
            *(api.patch(path, json={"name": f"patch {n}", "qty": 60 + n}, headers=OVERWRITE) for n in range(15)),
            *(_sell(pool, product_id, 3) for _ in range(30)),
        )
    assert {answer.status_code for answer in answers if answer is not None} == {200}
    assert await audit.unbalanced() == []
    found = await api.get(path)
    assert found.json()["qty"] == await audit.qty(product_id)
    assert found.headers["ETag"] == f'"{1 + 90}"'


async def _sell(pool: "asyncpg.Pool[asyncpg.Record]", product_id: str, quantity: int) -> None:
    """As product_consumer does: the verdict and the stock in one transaction."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM products WHERE id = $1 FOR UPDATE", product_id)
        await connection.execute(
            "UPDATE products SET qty = qty - $2, version = version + 1 WHERE id = $1", product_id, quantity
        )
        await connection.execute(
            "INSERT INTO stock_ledger (order_id, product_id, quantity, outcome)"
            " VALUES (gen_random_uuid(), $1, $2, 'PROCESSED')",
            product_id,
            quantity,
        )


# ── events


async def test_every_change_is_told_on_the_products_exchange(api: httpx.AsyncClient, amqp_url: str) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await topology.declare_product_events(await connection.channel())
        path = await _create(api, qty=5)
        await api.patch(path, json={"price": 1.25})
        await api.post(f"{path}/restock", json={"quantity": 2})
        await api.put(path, json={"name": "x", "price": 2, "qty": 0}, headers=OVERWRITE)
        await api.patch(path, json={"qty": 4}, headers=OVERWRITE)
        await api.delete(path)
        told = [await queue.get(timeout=5) for _ in range(6)]
    product_id, price = path.rpartition("/")[2], Decimal
    assert [(it.routing_key, decode_event(it.body)) for it in told if it] == [
        ("product.created", ProductEvent(product_id, 1, price("1500.00"), 5)),
        ("product.updated", ProductEvent(product_id, 2, price("1.25"), 5)),
        ("product.restocked", ProductEvent(product_id, 3, price("1.25"), 7)),
        ("product.sold_out", ProductEvent(product_id, 4, price("2.00"), 0)),
        ("product.restocked", ProductEvent(product_id, 5, price("2.00"), 4)),
        ("product.deleted", ProductEvent(product_id, 6, price("2.00"), 4, deleted=True)),
    ]


async def test_a_change_of_which_nobody_hears_is_no_error(
    api: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    await _create(api)
    metrics = (await api.get("/metrics")).text
    assert 'headrace_product_events_total{key="product.created",outcome="unroutable"}' in metrics
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
    app = make_app(settings_from(ProductSettings, environment))
    async with running(app) as url, httpx.AsyncClient(base_url=url) as api:
        began = time.monotonic()
        path = await _create(api)
        assert (await api.patch(path, json={"qty": 1}, headers=OVERWRITE)).status_code == 200
        assert time.monotonic() - began < 1
