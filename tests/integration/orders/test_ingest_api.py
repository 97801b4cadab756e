"""ingest_api as a process, on real servers, with no worker behind it: what a client gets, and what is in the queue."""

import asyncio
import math
import re
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest

from database.sessions import StoreUnavailable, make_pool, reading
from ingest_api.prices import product_source
from ingest_api.prices.catalogue import Catalogue
from ingest_api.prices.product_source import ProductSource
from ingest_api.settings import IngestSettings
from pipeline.cache.product_cache import TTL_S, ProductCache
from pipeline.cache.redis_link import connect
from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent
from tests.support.data.orders import accepted_at_ms
from tests.support.data.redis_names import NAMESPACE
from tests.support.services.ingest import ORDERS, Ingest, check_problem, elements_of, execute, ingesting, insert_product
from tests.support.services.processes import free_port
from tests.support.services.settings import settings_from
from tests.support.services.workers import locked
from tests.support.time.conditions import eventually

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


async def test_events_close_and_open_the_door(ingest: Ingest, laptop: str) -> None:
    async def answers(status: int) -> bool:
        return (await ingest.order(laptop)).status_code == status

    assert await answers(202)
    await ingest.tell(topology.PRODUCT_SOLD_OUT, ProductEvent(laptop, 2, Decimal("1500.00"), 0))
    await eventually(lambda: answers(409))
    await ingest.tell(topology.PRODUCT_RESTOCKED, ProductEvent(laptop, 3, Decimal("1600.00"), 5))
    await eventually(lambda: answers(202))
    assert (await ingest.order(laptop)).json()["unit_price"] == 1600
    await ingest.tell(topology.PRODUCT_DELETED, ProductEvent(laptop, 4, Decimal("1600.00"), 5, deleted=True))
    await eventually(lambda: answers(422))


async def test_an_event_that_is_none_is_ignored(ingest: Ingest, laptop: str) -> None:
    await ingest.order(laptop)
    await ingest.tell(topology.PRODUCT_UPDATED, ProductEvent("?", -1, Decimal(-1), -1))
    await ingest.tell(topology.PRODUCT_UPDATED, msgspec.Raw(b'"nonsense"'))  # type: ignore[arg-type]
    await ingest.tell(topology.PRODUCT_SOLD_OUT, ProductEvent(laptop, 2, Decimal("1500.00"), 0))

    async def is_shut() -> bool:
        return (await ingest.order(laptop)).status_code == 409

    assert await eventually(is_shut)


async def test_a_cached_product_is_taken_from_redis(ingest: Ingest, redis_url: str, laptop: str) -> None:
    async with connect(redis_url) as redis:
        body = f'{{"id":"{laptop}","name":"x","price":1499.90,"qty":1,"createdAt":"2026-01-01T00:00:00Z"}}'
        await ProductCache(redis, NAMESPACE).fill(laptop, 7, body.encode())
    response = await ingest.order(laptop)
    assert b'"unit_price":1499.90,' in response.content
    assert await ingest.metric('headrace_catalogue_lookups_total{source="redis"}') == 1


async def test_a_cached_product_older_than_the_known_one_is_not_believed(
    environment: dict[str, str], redis_url: str, laptop: str, database_url: str
) -> None:
    """Its bust was lost; the database is asked, and may be older too."""
    async with connect(redis_url) as redis, make_pool(database_url, "test", size=1, timeout_s=2) as pool:
        cache = ProductCache(redis, NAMESPACE)
        await cache.fill(laptop, 6, b'{"price":6.00,"qty":1}')
        source = ProductSource(cache, pool, timeout_s=2)
        found = [it for known in (0, 6, 7) if (it := (await source.load({laptop: known}))[laptop])]
        assert [it.state.version for it in found] == [6, 6, 1]


async def test_p7_a_cached_product_is_as_old_as_its_row_was_read_and_past_its_age_postgresql_is_asked(
    environment: dict[str, str], redis_url: str, laptop: str, database_url: str
) -> None:
    async with connect(redis_url) as redis, make_pool(database_url, "test", size=1, timeout_s=2) as pool:
        cache = ProductCache(redis, NAMESPACE)
        source = ProductSource(cache, pool, timeout_s=2, max_age_s=30)
        for age_s, version in ((10, 6), (29, 6), (31, 1)):
            await cache.fill(laptop, 6, b'{"price":6.00,"qty":1}', age_s)
            found = (await source.load({laptop: 0}))[laptop]
            assert found is not None
            assert found.state.version == version
            assert found.age_s == pytest.approx(age_s if version == 6 else 0, abs=1)
            assert await redis.pttl(f"{NAMESPACE}product:{laptop}") <= (TTL_S - age_s) * 1000
        await redis.hdel(f"{NAMESPACE}product:{laptop}", "read_ms")  # as the release before this filled it
        assert (await cache.read_many([laptop]))[laptop].age_s == TTL_S


async def test_a_thousand_products_asked_for_at_once_are_a_few_questions(
    environment: dict[str, str], redis_url: str, laptop: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a TTL, when every product that sells has become old in the same second."""
    questions = []

    def counted(*arguments: Any) -> Any:
        questions.append(arguments)
        return reading(*arguments)

    monkeypatch.setattr(product_source, "reading", counted)
    cached, unknown = await insert_product(database_url), str(uuid.uuid4())
    products = [str(uuid.uuid4()) for _ in range(999)]
    prices = [Decimal(place) for place in range(999)]
    inserted = (
        "INSERT INTO products (id, name, price, qty) SELECT *, 0 FROM unnest($1::uuid[], $2::text[], $3::numeric[])"
    )
    await execute(database_url, inserted, products, ["x"] * 999, prices)
    async with connect(redis_url) as redis, make_pool(database_url, "test", size=1, timeout_s=5) as pool:
        cache = ProductCache(redis, NAMESPACE)
        await cache.fill(cached, 1, b'{"price":0.50,"qty":1}')
        catalogue = Catalogue(settings_from(IngestSettings, environment), ProductSource(cache, pool, timeout_s=5).load)
        finds = [catalogue.find(product_id, "") for product_id in [*products, cached, unknown]]
        *found, from_redis, nothing = await asyncio.gather(*finds)
    assert [product.price for product in found] == prices
    assert (from_redis.price, nothing.price) == (Decimal("0.50"), None)
    assert len(questions) <= 2 + math.ceil(1000 / 250)


async def test_a_store_that_does_not_answer_is_away_for_all_who_ask_within_the_timeout(
    environment: dict[str, str], redis_url: str, laptop: str, database_url: str
) -> None:
    """Also for those who ask while it is being waited for; and none of them is in the way of those who come later."""
    async with connect(redis_url) as redis, make_pool(database_url, "test", size=1, timeout_s=1) as pool:
        source = ProductSource(ProductCache(redis, NAMESPACE), pool, timeout_s=1)
        catalogue = Catalogue(settings_from(IngestSettings, environment), source.load)
        begun = time.monotonic()
        async with locked(database_url, "products"):
            finds = [asyncio.create_task(catalogue.find(str(uuid.uuid4()), "")) for _ in range(3)]
            await asyncio.sleep(0)
            finds.append(asyncio.create_task(catalogue.find(laptop, "")))
            outcomes = await asyncio.gather(*finds, return_exceptions=True)
        assert {type(it) for it in outcomes} == {StoreUnavailable}
        assert time.monotonic() - begun < 2.5

        async def is_found() -> bool:
            return laptop in await source.load({laptop: 0})

        await eventually(is_found)


async def test_a_damaged_cache_is_as_good_as_none(ingest: Ingest, redis_url: str, database_url: str) -> None:
    async with connect(redis_url) as redis:
        for body in (b"", b"nonsense", b"{}", b'{"price":"x","qty":1}', b"\xff"):
            product_id = await insert_product(database_url)
            await ProductCache(redis, NAMESPACE).fill(product_id, 7, body)
            assert (await ingest.order(product_id)).status_code == 202


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


@pytest.mark.alone  # the service reads on for a short time only: on a busy machine the client is cut off
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
        ("GET", ORDERS, {"POST"}),
        ("HEAD", ORDERS, {"POST"}),
        ("OPTIONS", ORDERS, {"POST"}),
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


# ── health and metrics

PARTS = ["broker", "product events", "verdicts", "redis"]
SERVERS = {
    "DATABASE_URL": "postgresql://x:x@127.0.0.1:{}/x",
    "AMQP_URL": "amqp://x:x@127.0.0.1:{}/x",
    "REDIS_URL": "redis://127.0.0.1:{}/0",
}


async def all_are_ok(ingest: Ingest) -> bool:
    return set((await ingest.get("/health")).json()["parts"].values()) == {"ok"}


async def test_health_pages_say_how_it_is(ingest: Ingest) -> None:
    assert (await ingest.get("/livez")).json() == {"status": "alive"}
    ready = await ingest.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert list((await ingest.get("/health")).json()["parts"]) == PARTS
    # Ready is not all of it: the broker alone makes a process ready, and the others come when they come.
    await eventually(lambda: all_are_ok(ingest))
    assert (await ingest.get("/health")).json()["service"] == "ingest_api"


async def test_all_parts_are_named_before_any_is_there(environment: dict[str, str]) -> None:
    nowhere = {name: address.format(free_port()) for name, address in SERVERS.items()}
    async with ingesting({**environment, **nowhere}, ready="/livez") as ingest:
        health = (await ingest.get("/health")).json()
    assert (health["status"], list(health["parts"])) == ("not ready", PARTS)
    assert "ok" not in health["parts"].values()


async def test_a_stranger_learns_from_readyz_whether_it_is_ready_and_nothing_else(environment: dict[str, str]) -> None:
    """What is wrong, in the words of servers inside, is for operators."""
    nowhere = {name: address.format(free_port()) for name, address in SERVERS.items()}
    async with ingesting({**environment, **nowhere}, ready="/livez") as ingest:
        await eventually(lambda: _says_why(ingest))
        for url in (ingest.service.url, ingest.service.health_url):
            ready = await ingest.client.get(f"{url}/readyz")
            assert (ready.status_code, ready.content) == (503, b'{"status":"not ready"}')


async def _says_why(ingest: Ingest) -> bool:
    return await ingest.part("broker") not in ("ok", "not connected yet")


async def test_metrics_count_what_happened(ingest: Ingest, laptop: str) -> None:
    for quantity in (1, 2, 3, 0):
        await ingest.order(laptop, quantity)
    text = (await ingest.get("/metrics")).text
    for sample in (
        "headrace_orders_accepted_total 3.0",
        'headrace_orders_refused_total{reason="invalid-value"} 1.0',
        'headrace_confirm_seconds_count{exchange="orders_exchange"} 3.0',
        "headrace_orders_in_flight 0.0",
        "headrace_bytes_in_flight 0.0",
        "headrace_group_commit_orders_sum 3.0",
        'headrace_catalogue_lookups_total{source="postgres"} 1.0',
        "headrace_catalogue_products 1.0",
    ):
        assert f"\n{sample}\n" in text
    assert "process_cpu_seconds_total" in text
