"""A product is created once, and a restock adds once, however often the request is sent with its Idempotency-Key."""

import asyncio

import asyncpg
import httpx
import pytest

from product_api import answered
from product_api.answered import KeyedRequest, digest_of
from tests.chaos.faults import failpoints
from tests.support.data.products import Audit
from tests.support.scenes.products import LAPTOP
from tests.support.services.ingest import check_problem, execute, insert_product
from tests.support.services.processes import service_process
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

KEY = {"Idempotency-Key": "01a20267-97ad-7199-a6a6-540000cf26ec"}


async def restock(
    api: httpx.AsyncClient, product_id: str, quantity: int = 5, headers: dict[str, str] = KEY
) -> httpx.Response:
    return await api.post(f"/products/{product_id}/restock", json={"quantity": quantity}, headers=headers)


def is_replay_of(again: httpx.Response, first: httpx.Response) -> bool:
    names = "etag", "location", "cache-control"
    same = [(it.status_code, it.content, *(it.headers.get(name) for name in names)) for it in (again, first)]
    return same[0] == same[1] and again.headers.get("idempotency-replayed") == "true"


async def test_a_product_is_created_once_and_its_answer_is_as_it_was(api: httpx.AsyncClient, audit: Audit) -> None:
    first = await api.post("/products", json=LAPTOP, headers=KEY)
    assert first.status_code == 201
    assert "idempotency-replayed" not in first.headers
    await api.patch(first.headers["location"], json={"price": 25})
    again = await api.post(
        "/products", json={**LAPTOP, "price": "1500.00"}, headers={"Idempotency-Key": f'"{KEY["Idempotency-Key"]}"'}
    )
    assert is_replay_of(again, first)
    assert len((await api.get("/products")).json()) == 1
    assert await audit.unbalanced() == []


async def test_p3_a_restock_adds_once(api: httpx.AsyncClient, audit: Audit, database_url: str) -> None:
    product_id = await insert_product(database_url, qty=50)
    first = await restock(api, product_id)
    assert (await restock(api, product_id, 7, {"Idempotency-Key": "another"})).status_code == 200
    for _ in range(3):
        assert is_replay_of(await restock(api, product_id), first)
    assert await audit.qty(product_id) == 62
    assert await audit.adjustments(product_id) == [(50, "creation"), (5, "restock"), (7, "restock")]
    assert await audit.unbalanced() == []


async def test_p3_thirty_restocks_at_once_with_one_key_add_once(
    api: httpx.AsyncClient, audit: Audit, database_url: str
) -> None:
    product_id = await insert_product(database_url, qty=50)
    answers = await asyncio.gather(*(restock(api, product_id) for _ in range(30)))
    assert {answer.status_code for answer in answers} <= {200, 409, 503}  # 503: more writes than connections
    for answer in answers:
        if answer.status_code == 409:
            check_problem(answer, 409, "request-in-flight")
    assert (await restock(api, product_id)).status_code == 200
    assert await audit.qty(product_id) == 55
    assert await audit.unbalanced() == []


async def test_a_key_with_another_request_is_refused(api: httpx.AsyncClient, database_url: str) -> None:
    product_id, other = await insert_product(database_url), await insert_product(database_url)
    await restock(api, product_id)
    check_problem(await restock(api, product_id, 6), 422, "key-reused")
    check_problem(await restock(api, other), 422, "key-reused")
    check_problem(await api.post("/products", json=LAPTOP, headers=KEY), 422, "key-reused")


async def test_a_refused_request_frees_its_key(api: httpx.AsyncClient, database_url: str) -> None:
    product_id = await insert_product(database_url)
    check_problem(await restock(api, "01a20267-97ad-7199-a6a6-540000cf26ec"), 404, "not-found")
    check_problem(await restock(api, product_id, headers=KEY | {"If-Match": '"9"'}), 412, "version-mismatch")
    check_problem(await restock(api, product_id, 0), 422, "invalid-value")
    check_problem(await restock(api, product_id, headers={"Idempotency-Key": "a b"}), 400, "malformed")
    assert (await restock(api, product_id)).status_code == 200


async def test_a_replay_comes_before_preconditions_which_the_first_request_has_changed(
    api: httpx.AsyncClient, database_url: str
) -> None:
    product_id = await insert_product(database_url)
    headers = KEY | {"If-Match": '"1"'}
    first = await restock(api, product_id, headers=headers)
    assert is_replay_of(await restock(api, product_id, headers=headers), first)


async def test_p3_while_the_first_is_under_way_a_retry_is_told_to_wait(
    api: httpx.AsyncClient, audit: Audit, database_url: str
) -> None:
    product_id = await insert_product(database_url, qty=50)
    async with connected(database_url) as connection, connected(database_url) as watching:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM products WHERE id = $1 FOR UPDATE", product_id)
            first = asyncio.create_task(restock(api, product_id))
            waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            await eventually(lambda: watching.fetchval(f"SELECT count(*) {waiting}"))
            check_problem(await restock(api, product_id), 409, "request-in-flight")
        answer = await first
        assert is_replay_of(await restock(api, product_id), answer)
    assert await audit.qty(product_id) == 55


async def test_p3_p7_a_retry_after_a_death_between_commit_and_bust_is_the_first_answer_and_busts(
    environment: dict[str, str], audit: Audit
) -> None:
    product_id = await insert_product(environment["DATABASE_URL"], qty=50)
    dying = {**environment, failpoints.VARIABLE: "product.after_commit_before_bust:kill"}
    async with (
        service_process("product_api", dying, program="tests.chaos.faults.failing") as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        await client.get(f"/products/{product_id}")  # which fills the cache
        with pytest.raises(httpx.TransportError):
            await restock(client, product_id)
        await service.ended()
    async with (
        service_process("product_api", environment) as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        again = await restock(client, product_id)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
        assert again.json()["qty"] == (await client.get(f"/products/{product_id}")).json()["qty"] == 55
    assert await audit.unbalanced() == []


async def test_keys_are_their_clients_and_end_after_a_day_and_the_table_does_not_grow(database_url: str) -> None:
    asked = KeyedRequest("shop", "k", digest_of("restock", 5), 200)
    product_id = await insert_product(database_url)

    async def remember(connection: "asyncpg.Connection[asyncpg.Record]", keyed: KeyedRequest) -> None:
        async with connection.transaction():
            await answered.begin(connection, keyed)  # type: ignore[arg-type]
            await answered.remember(connection, keyed, product_id, 1, b"{}")  # type: ignore[arg-type]

    async with connected(database_url) as connection:
        for number in range(30):
            await remember(connection, asked._replace(key=f"{number}"))
        await remember(connection, asked)
        await remember(connection, asked._replace(client="other"))
        await execute(database_url, "UPDATE product_requests SET answered_at = now() - interval '25 hours'")
        await remember(connection, asked._replace(request=digest_of("create")))
        for number in range(3):
            await remember(connection, asked._replace(key=f"new {number}"))
        assert await connection.fetchval("SELECT count(*) FROM product_requests") == 4
