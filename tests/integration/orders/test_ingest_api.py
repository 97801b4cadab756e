"""ingest_api as a process on real servers, without workers: what a client gets, and what the queue holds."""

import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import msgspec
import pytest

from pipeline.contract import topology
from tests.support.data.orders import accepted_at_ms
from tests.support.services.ingest import ORDERS, Ingest, check_problem, elements_of, execute, ingesting, insert_product

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# ── 202


async def test_an_order_is_answered_202_with_all_its_fields(ingest: Ingest, laptop: str) -> None:
    before = datetime.now(UTC)
    response = await ingest.order(laptop, 2)
    assert response.status_code == 202
    order = response.json()
    assert response.headers["location"] == f"{ORDERS}/{order['id']}"
    assert response.headers["content-type"] == "application/json"
    assert order.keys() == {"id", "product_id", "quantity", "unit_price", "total_price", "status", "created_at"}
    assert (order["product_id"], order["quantity"], order["status"]) == (laptop, 2, "PENDING")
    assert b'"unit_price":1500.00,"total_price":3000.00,' in response.content
    created_at = datetime.fromisoformat(order["created_at"])
    assert before <= created_at <= datetime.now(UTC)
    assert abs(accepted_at_ms(order["id"]) - created_at.timestamp() * 1000) < 1000


async def test_prices_are_json_numbers_with_exact_digits(ingest: Ingest, database_url: str) -> None:
    for price, quantity, total in (
        (b"0.00", 1_000_000, b"0.00"),
        (b"0.01", 3, b"0.03"),
        (b"0.10", 3, b"0.30"),
        (b"9999999999.99", 1_000_000, b"9999999999990000.00"),
    ):
        response = await ingest.order(await insert_product(database_url, price.decode()), quantity)
        assert b'"unit_price":%b,"total_price":%b,' % (price, total) in response.content


async def test_what_is_in_the_queue_is_byte_for_byte_what_the_client_got(ingest: Ingest, laptop: str) -> None:
    response = await ingest.order(laptop, 2)
    (message,) = await ingest.queued()
    assert elements_of(message.body) == [response.content]
    assert message.delivery_mode == 2
    assert message.content_type == "application/json"
    assert {name: message.headers[name] for name in ("schema", "orders")} == {"schema": 1, "orders": 1}
    assert (message.exchange, message.routing_key) == (topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED)


async def test_the_trace_context_travels_in_the_message(ingest: Ingest, laptop: str) -> None:
    await ingest.order(laptop, traceparent=TRACEPARENT)
    for malformed in ("00-nonsense-01", f"ff{TRACEPARENT[2:]}", f"00-{'0' * 32}-{'1' * 16}-01"):
        await ingest.order(laptop, traceparent=malformed)
    first, *others = (msgspec.json.decode(order) for order in await ingest.queued_orders())
    assert first["traceparent"] == TRACEPARENT
    assert all("traceparent" not in order for order in others)


async def test_an_upper_case_product_id_is_the_same_product(ingest: Ingest, laptop: str) -> None:
    response = await ingest.order(laptop.upper())
    assert response.status_code == 202
    assert response.json()["product_id"] == laptop


async def test_the_old_services_201_can_be_had(environment: dict[str, str], laptop: str) -> None:
    async with ingesting(environment, accepted_status=201) as ingest:
        assert (await ingest.order(laptop)).status_code == 201


async def test_two_ingest_apis_take_orders_for_the_same_product(environment: dict[str, str], laptop: str) -> None:
    async with ingesting(environment) as one, ingesting(environment) as other:
        accepted = [(await it.order(laptop)).json()["id"] for it in (one, other) for _ in range(10)]
        assert len(set(accepted)) == 20
        assert {msgspec.json.decode(order)["id"] for order in await one.queued_orders()} == set(accepted)
        assert (await other.get(f"{ORDERS}/{accepted[0]}")).json()["status"] == "PENDING"


# ── refused at the door


async def test_an_unknown_product_is_422(ingest: Ingest) -> None:
    for product_id in ("00000000-0000-0000-0000-000000000000", str(uuid.uuid4())) * 2:
        response = await ingest.order(product_id)
        check_problem(response, 422, "unknown-product")
        assert response.json()["errors"][0]["pointer"] == "#/productId"
    assert await ingest.metric('headrace_orders_refused_total{reason="unknown-product"}') == 4
    assert await ingest.queued() == []


async def test_a_deleted_product_is_422(ingest: Ingest, laptop: str, database_url: str) -> None:
    await execute(database_url, "UPDATE products SET deleted_at = now() WHERE id = $1", laptop)
    check_problem(await ingest.order(laptop), 422, "unknown-product")


async def test_a_product_without_stock_is_409(ingest: Ingest, database_url: str) -> None:
    check_problem(await ingest.order(await insert_product(database_url, qty=0)), 409, "out-of-stock")
    assert await ingest.queued() == []


# ── malformed requests


async def test_what_is_wrong_with_a_body_is_a_problem_with_a_pointer(ingest: Ingest, laptop: str) -> None:
    response = await ingest.order(laptop, 0)
    check_problem(response, 422, "invalid-value")
    assert response.json()["errors"][0]["pointer"] == "#/quantity"
    check_problem(await ingest.order("1"), 422, "invalid-value")
    check_problem(await _post(ingest, b"{"), 400, "malformed")
    check_problem(await _post(ingest, b"[" * 60_000), 400, "malformed")
    check_problem(await _post(ingest, b'{"x":' + b"[" * 60_000), 400, "malformed")
    check_problem(await _post(ingest, b"{}", content_type="text/plain"), 415, "not-json")
    assert await ingest.queued() == []
    assert "unhandled" not in ingest.service.log()


async def _post(
    ingest: Ingest, body: "bytes | AsyncIterator[bytes]", content_type: str = "application/json"
) -> httpx.Response:
    return await ingest.client.post(ORDERS, content=body, headers={"Content-Type": content_type})


@pytest.mark.alone  # the service reads on only for a short time, so a busy machine's client may be cut off
@pytest.mark.parametrize("size", [64 * 1024 + 1, 5_000_000])
async def test_a_body_over_the_limit_is_413_with_and_without_a_length(ingest: Ingest, laptop: str, size: int) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 1000):
            yield b" " * min(1000, size - start)

    check_problem(await _post(ingest, b" " * size), 413, "too-large")
    check_problem(await _post(ingest, in_pieces()), 413, "too-large")
    assert (await ingest.order(laptop)).status_code == 202


async def test_a_body_in_pieces_up_to_the_limit_is_taken(ingest: Ingest, laptop: str) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        yield f'{{"productId":"{laptop}",'.encode()
        for _ in range(60):
            yield b" " * 1024
        yield b'"quantity":1}'

    assert (await _post(ingest, in_pieces())).status_code == 202


async def test_paths_that_are_not_there_are_404(ingest: Ingest) -> None:
    for path in (
        "/api",
        "/api/v1/nothing",
        f"{ORDERS}/",
        f"{ORDERS}/product",
        f"{ORDERS}/%2e%2e",
        f"{ORDERS}/a%2Fb",
        f"{ORDERS}/%ff%00",
    ):
        check_problem(await ingest.get(path), 404, "not-found")
    # Not a redirect either: a POST would be sent to the Host it named, by plain http.
    check_problem(await ingest.client.post(f"{ORDERS}/", json={}), 404, "not-found")


async def test_methods_that_are_not_there_are_405_and_say_which_are(ingest: Ingest) -> None:
    for method, path, allow in (
        ("PUT", ORDERS, {"GET", "HEAD", "POST"}),
        ("OPTIONS", ORDERS, {"GET", "HEAD", "POST"}),
        ("GET", f"{ORDERS}/bulk", {"POST"}),
        ("HEAD", f"{ORDERS}/bulk", {"POST"}),
        ("DELETE", f"{ORDERS}/bulk", {"POST"}),
        ("DELETE", f"{ORDERS}/01a20267-97ad-8199-a6a6-540000cf26ec", {"GET", "HEAD"}),
        ("POST", "/livez", {"GET", "HEAD"}),
    ):
        response = await ingest.client.request(method, path)
        check_problem(response, 405, "method-not-allowed")
        assert set(re.split(r",\s*", response.headers["allow"])) == allow


async def test_head_is_get_without_a_body(ingest: Ingest, laptop: str) -> None:
    location = (await ingest.order(laptop)).headers["location"]
    got, head = await ingest.get(location), await ingest.client.head(location)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
