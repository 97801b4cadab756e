"""API keys over real sockets: scopes, ownership of orders, and limits."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest

from ingest_api.documents.operations import OPERATIONS as INGEST_OPERATIONS
from pipeline.contract.api_keys import ORDERS_READ, ORDERS_WRITE, SCOPES, new_token
from pipeline.contract.orders import decode_order
from product_api.operations import OPERATIONS as PRODUCT_OPERATIONS
from tests.support.data.api_keys import bearer, key_of, write_keys
from tests.support.services.ingest import ORDERS, Ingest, check_problem, insert_product
from tests.support.services.processes import service_process
from tests.support.time.conditions import eventually
from web.access.clients import ANY_KEY, PUBLIC
from web.requests.operations import Operation

ORDERS_BULK = f"{ORDERS}/bulk"
# The keys of these tests: one for each scope, and two clients that order and read.
BY_SCOPE = {scope: new_token() for scope in SCOPES}
SHOP, SHOP_NEW, OTHER, SLOW = (new_token() for _ in range(4))
BOTH = (ORDERS_WRITE, ORDERS_READ)
SHOP_KEYS = (key_of(SHOP, "shop", BOTH), key_of(OTHER, "other", BOTH), key_of(SLOW, "slow", BOTH, orders_per_s=5))
ALL_KEYS = (*SHOP_KEYS, *(key_of(token, f"only-{scope[-3:]}", [scope]) for scope, token in BY_SCOPE.items()))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    write_keys(tmp_path / "api-keys.json", *ALL_KEYS)
    return tmp_path / "api-keys.json"


@pytest.fixture
def guarded(environment: dict[str, str], key_file: Path) -> dict[str, str]:
    """The environment of a service with keys."""
    return {**environment, "API_KEYS_FILE": str(key_file)}


@asynccontextmanager
async def guarded_ingest(guarded: Mapping[str, str]) -> AsyncIterator[Ingest]:
    """It does not wait for product events, because only `ops` may ask for them."""
    async with (
        service_process("ingest_api", guarded) as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as client,
    ):
        yield Ingest(service, client, guarded)


# ── every operation, every scope


def path_of(operation: Operation) -> str:
    return re.sub(r"\{\w+\}", str(uuid.uuid4()), operation.path)


async def check_guard(client: httpx.AsyncClient, method: str, path: str, needs: str) -> None:
    """Assert 401 without a key, 403 with each key without the scope, and neither with each key that has it."""
    no_key = await client.request(method, path)
    check_problem(no_key, 401, "unauthenticated")
    assert no_key.headers["www-authenticate"].startswith("Bearer ")
    check_problem(await client.request(method, path, headers=bearer(new_token())), 401, "unauthenticated")
    for scope, token in BY_SCOPE.items():
        answer = await client.request(method, path, headers=bearer(token))
        if needs in (scope, ANY_KEY):
            assert answer.status_code not in (401, 403, 500), (method, path, scope, answer.text)
        else:
            check_problem(answer, 403, "forbidden")
            assert f'scope="{needs}"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("name", "operations"), [("ingest_api", INGEST_OPERATIONS), ("product_api", PRODUCT_OPERATIONS)]
)
async def test_every_operation_is_reached_with_its_scope_and_only_with_it(
    guarded: dict[str, str], name: str, operations: tuple[Operation, ...]
) -> None:
    async with (
        service_process(name, guarded) as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as client,
    ):
        for operation in operations:
            if operation.needs != PUBLIC:
                await check_guard(client, operation.method, path_of(operation), operation.needs)
        for page in ("/metrics", "/health"):
            await check_guard(client, "GET", page, "ops")
        for page in ("/livez", "/readyz"):
            assert (await client.get(page)).status_code == 200
        told = (await client.get("/metrics", headers=bearer(BY_SCOPE["ops"]))).text
        denied = {
            reason: int(float(n)) for reason, n in re.findall(r'requests_denied_total{reason="(\S+)"} (\S+)', told)
        }
        guarded_paths = sum(it.needs != PUBLIC for it in operations) + 2
        assert denied["unauthenticated"] == 2 * guarded_paths
        assert denied["forbidden"] == 3 * (guarded_paths - sum(it.needs == ANY_KEY for it in operations))


@pytest.mark.parametrize("sent", ["Basic eDp5", "Bearer", "Bearer hr_nothing", "Bearer a b", "{0}", "Token {0}"])
async def test_what_is_no_key_is_401_and_no_order(guarded: dict[str, str], sent: str) -> None:
    product_id = await insert_product(guarded["DATABASE_URL"])
    async with guarded_ingest(guarded) as ingest:
        refused = await ingest.order(product_id, Authorization=sent.format(SHOP))
        check_problem(refused, 401, "unauthenticated")
        assert SHOP not in refused.text
        assert await ingest.queued() == []


async def test_two_authorization_headers_are_401_even_if_both_are_right(guarded: dict[str, str]) -> None:
    async with guarded_ingest(guarded) as ingest:
        headers = [("Authorization", f"Bearer {SHOP}")] * 2
        refused = await ingest.client.get(f"{ORDERS}/{uuid.uuid4()}", headers=headers)
        check_problem(refused, 401, "unauthenticated")
        assert "more than one" in refused.json()["detail"]


async def test_no_secret_is_ever_logged(guarded: dict[str, str]) -> None:
    product_id = await insert_product(guarded["DATABASE_URL"])
    async with guarded_ingest(guarded) as ingest:
        for token in (SHOP, new_token(), f"{SHOP}0"):
            await ingest.order(product_id, **bearer(token))
        await ingest.service.stop()
        assert SHOP.rpartition("_")[2] not in ingest.service.log()


# ── whose order it is


async def test_an_order_carries_its_client_in_the_message_and_not_in_the_answer(guarded: dict[str, str]) -> None:
    product_id = await insert_product(guarded["DATABASE_URL"])
    async with guarded_ingest(guarded) as ingest:
        answer = await ingest.order(product_id, **bearer(SHOP))
        bulk = await ingest.client.post(
            ORDERS_BULK, json=[{"productId": product_id, "quantity": 1}] * 2, headers=bearer(OTHER)
        )
        queued = {it.id: it.client for it in map(decode_order, await ingest.queued_orders())}
    assert queued == {answer.json()["id"]: "shop", **{it["id"]: "other" for it in bulk.json()}}
    assert b"client" not in answer.content
    assert b"client" not in bulk.content


async def test_an_order_is_readable_by_its_client_and_by_ops_alone(guarded: dict[str, str]) -> None:
    product_id = await insert_product(guarded["DATABASE_URL"])
    reader, ops_reader = new_token(), new_token()
    write_keys(
        Path(guarded["API_KEYS_FILE"]),
        *ALL_KEYS,
        key_of(reader, "shop", [ORDERS_READ]),
        key_of(ops_reader, "support", [ORDERS_READ, "ops"]),
    )
    async with guarded_ingest(guarded) as ingest, service_process("persist_worker", guarded):
        order_id = (await ingest.order(product_id, **bearer(SHOP))).json()["id"]
        path, listing = f"{ORDERS}/{order_id}", f"{ORDERS}/product/{product_id}"

        async def ids_of(token: str) -> list[str]:
            return [it["id"] for it in (await ingest.client.get(listing, headers=bearer(token))).json()]

        await eventually(lambda: _is_stored(ingest, path))
        for token in (SHOP, reader, ops_reader):
            assert (await ingest.client.get(path, headers=bearer(token))).json()["id"] == order_id
            assert await ids_of(token) == [order_id]
        check_problem(await ingest.client.get(path, headers=bearer(OTHER)), 404, "not-found")
        assert await ids_of(OTHER) == []


async def _is_stored(ingest: Ingest, path: str) -> bool:
    return "quantity" in (await ingest.client.get(path, headers=bearer(SHOP))).json()


@pytest.mark.parametrize("endpoint", [ORDERS, ORDERS_BULK])
async def test_p5_an_idempotency_key_is_its_clients_and_outlives_a_change_of_api_keys(
    guarded: dict[str, str], endpoint: str
) -> None:
    product_id = await insert_product(guarded["DATABASE_URL"])
    body: object = {"productId": product_id, "quantity": 1}
    write_keys(Path(guarded["API_KEYS_FILE"]), *SHOP_KEYS, key_of(SHOP_NEW, "shop", BOTH))
    async with guarded_ingest(guarded) as ingest:

        async def order(token: str) -> object:
            headers = {**bearer(token), "Idempotency-Key": "k1"}
            content = [body] if endpoint == ORDERS_BULK else body
            answer = await ingest.client.post(endpoint, json=content, headers=headers)
            assert answer.status_code == 202, answer.text
            return answer.json()

        first = await order(SHOP)
        assert await order(SHOP_NEW) == first
        assert await order(OTHER) != first
        assert len(await ingest.queued_orders()) == 2


# ── how much

JSON = {"Content-Type": "application/json"}


async def test_p8_a_limited_client_is_told_what_is_left_and_then_429(guarded: dict[str, str]) -> None:
    product_id = await insert_product(guarded["DATABASE_URL"])
    async with guarded_ingest(guarded) as ingest:
        answers = await asyncio.gather(*(ingest.order(product_id, **bearer(SLOW)) for _ in range(30)))
        accepted = [it for it in answers if it.status_code == 202]
        refused = [it for it in answers if it.status_code != 202]
        assert 5 <= len(accepted) < 30
        assert len(await ingest.queued_orders()) == len(accepted)
        for answer in answers:
            assert answer.headers["ratelimit-policy"] == '"orders";q=5;w=1'
            assert re.fullmatch(r'"orders";r=[0-4];t=1', answer.headers["ratelimit"])
        for answer in refused:
            check_problem(answer, 429, "too-many-requests")
            assert answer.headers["retry-after"] == "1"
        others = [await ingest.order(product_id, **bearer(SHOP)) for _ in range(10)]
        assert {(it.status_code, "ratelimit" in it.headers) for it in others} == {(202, False)}


async def test_p8_a_bulk_request_costs_its_orders_and_a_bad_one_is_told_what_is_left(guarded: dict[str, str]) -> None:
    product_id = await insert_product(guarded["DATABASE_URL"])
    orders = [{"productId": product_id, "quantity": 1}] * 20
    async with guarded_ingest(guarded) as ingest:
        bad = await ingest.order(product_id, 0, **bearer(SLOW))
        check_problem(bad, 422, "invalid-value")
        assert bad.headers["ratelimit"] == '"orders";r=4;t=1'
        for url, nothing in ((ORDERS, "{"), (ORDERS_BULK, "[{")):  # an unreadable bulk costs one order
            answer = await ingest.client.post(url, content=nothing, headers=bearer(SLOW) | JSON)
            assert (answer.status_code, "ratelimit" in answer.headers) == (400, True)
        await eventually(lambda: _is_full_again(ingest, orders), timeout_s=10)
        single = await ingest.order(product_id, **bearer(SLOW))
        check_problem(single, 429, "too-many-requests")
        assert 2 <= int(single.headers["retry-after"]) <= 4  # 20 orders at 5 a second
        another = await ingest.client.post(ORDERS_BULK, json=orders, headers=bearer(SLOW))
        check_problem(another, 429, "too-many-requests")
        assert len(await ingest.queued_orders()) == 20


async def test_p8_a_basket_costs_its_lines_and_is_never_too_large_to_be_sent(guarded: dict[str, str]) -> None:
    products = [await insert_product(guarded["DATABASE_URL"]) for _ in range(10)]
    basket = {"lines": [{"productId": it, "quantity": 1} for it in products]}
    async with guarded_ingest(guarded) as ingest:
        for url, body in ((ORDERS, basket), (ORDERS_BULK, [basket])):
            first = await eventually(partial(_is_accepted, ingest, url, body), timeout_s=10)
            (told,) = first.headers.get_list("ratelimit")
            assert re.fullmatch(r'"orders";r=0;t=[23]', told)  # 10 lines at 5 a second
            check_problem(await ingest.order(products[0], **bearer(SLOW)), 429, "too-many-requests")


async def _is_accepted(ingest: Ingest, url: str, body: object) -> httpx.Response | None:
    answer = await ingest.client.post(url, json=body, headers=bearer(SLOW))
    return answer if answer.status_code == 202 else None


async def test_p8_bulk_requests_that_are_malformed_are_limited_too(guarded: dict[str, str]) -> None:
    async with guarded_ingest(guarded) as ingest:
        headers = bearer(SLOW) | {"Content-Type": "application/json"}
        sending = (ingest.client.post(ORDERS_BULK, content=b"[", headers=headers) for _ in range(30))
        answers = await asyncio.gather(*sending)
    assert 5 <= sum(it.status_code == 400 for it in answers) < 30
    assert {it.status_code for it in answers} == {400, 429}
    assert all("ratelimit" in it.headers for it in answers)


async def _is_full_again(ingest: Ingest, orders: list[dict[str, object]]) -> bool:
    """A bulk above the limit is accepted once the client owes nothing."""
    answer = await ingest.client.post(ORDERS_BULK, json=orders, headers=bearer(SLOW))
    return answer.status_code == 202 and len(msgspec.json.decode(answer.content)) == len(orders)
