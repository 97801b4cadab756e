"""If-Match and If-None-Match on products: a change never overwrites what its client has not seen."""

import asyncio
from decimal import Decimal

import aio_pika
import httpx
import pytest

from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent, decode_event
from tests.support.data.products import Audit
from tests.support.scenes.products import LAPTOP, OVERWRITE, create
from tests.support.time.conditions import eventually


async def test_a_change_with_an_old_etag_is_refused_and_changes_nothing(api: httpx.AsyncClient, audit: Audit) -> None:
    path = await create(api)
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
    path = await create(api)
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
    """RFC 9110, section 13.1.2: if If-None-Match matches, only GET and HEAD are performed."""
    path = await create(api)
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
    path = await create(api)
    others = {"If-None-Match": '"2", "3"'}
    assert (await api.patch(path, json={"price": 1}, headers=others)).status_code == 200
    assert (await api.patch(path, json={"price": 2}, headers=others)).status_code == 412
    assert (await api.delete(path, headers={"If-None-Match": '"1"'})).status_code == 204
    # A missing product has no version to exclude.
    assert (await api.delete(path, headers={"If-None-Match": "*"})).status_code == 404


async def test_what_would_write_over_qty_unseen_is_refused_without_an_if_match(
    api: httpx.AsyncClient, audit: Audit
) -> None:
    path = await create(api)
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
    path = await create(api)
    tag = {"If-Match": '"1"'}
    answers = await asyncio.gather(*(api.patch(path, json={"qty": n}, headers=tag) for n in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9


async def test_a_client_that_has_the_version_is_told_so(api: httpx.AsyncClient) -> None:
    path = await create(api)
    known = await api.get(path, headers={"If-None-Match": 'W/"1"'})
    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", '"1"')
    await api.patch(path, json={"qty": 1}, headers=OVERWRITE)
    assert (await api.get(path, headers={"If-None-Match": '"1"'})).status_code == 200


@pytest.mark.parametrize("patch", [{}, {"price": "1500.00"}, {"name": " Laptop Demo ", "price": 1500, "qty": 50}])
async def test_a_change_that_changes_nothing_writes_nothing_and_tells_nobody(
    api: httpx.AsyncClient, audit: Audit, amqp_url: str, patch: dict[str, object]
) -> None:
    path = await create(api)
    product_id = path.rpartition("/")[2]
    row = "SELECT xmin::text FROM products WHERE id = $1"
    written = await audit.connection.fetchval(row, product_id)
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await topology.declare_product_events(await connection.channel())

        async def is_heard() -> bool:
            return bool((await api.get("/health")).json()["parts"]["broker"] == "ok")

        await eventually(is_heard)
        same = await api.patch(path, json=patch, headers=OVERWRITE)
        assert (same.status_code, same.headers["ETag"], same.content) == (200, '"1"', (await api.get(path)).content)
        assert await audit.connection.fetchval(row, product_id) == written
        assert (await api.put(path, json=LAPTOP, headers=OVERWRITE)).headers["ETag"] == '"1"'
        assert (await api.patch(path, json=patch, headers={"If-Match": '"7"'})).status_code == 412
        # Events come in order, so the next change is the first event.
        assert (await api.patch(path, json={"price": 2})).headers["ETag"] == '"2"'
        told = await eventually(lambda: queue.get(fail=False))
    assert decode_event(told.body) == ProductEvent(product_id, 2, Decimal("2.00"), 50)
    assert await audit.adjustments(product_id) == [(50, "creation")]
