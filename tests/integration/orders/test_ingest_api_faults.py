"""ingest_api while the broker, the database or Redis is cut off, hangs, or is full."""

import asyncio
import time
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from tests.conftest import Servers
from tests.support.brokers.broker import Management
from tests.support.faults.faults import Proxy
from tests.support.scenes.ingest_faults import answers, behind, limit_queues, quickly
from tests.support.services.ingest import ORDERS, Ingest, check_problem, execute, ingesting, insert_product
from tests.support.time.conditions import eventually


def _break(proxy: Proxy, how: str) -> None:
    if how == "away":
        proxy.go_away()
    else:
        proxy.hold()


# ── the broker


async def test_without_a_broker_it_is_alive_and_not_ready_and_says_503_until_there_is_one(
    environment: dict[str, str], laptop: str
) -> None:
    async with behind(environment, "AMQP_URL") as broker:
        broker.go_away()
        async with ingesting(environment, ready="/livez") as ingest:
            ready = await ingest.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
            assert (await ingest.get("/health")).status_code == 200
            response = await quickly(ingest.order(laptop))
            check_problem(response, 503, "broker-unavailable")
            assert int(response.headers["retry-after"]) > 0
            assert await ingest.metric('headrace_orders_refused_total{reason="broker-unavailable"}') == 1
            check_problem(await ingest.order(laptop, 0), 422, "invalid-value")
            broker.come_back()
            await eventually(answers(ingest, laptop, 202))
            assert (await ingest.get("/readyz")).status_code == 200


async def test_a_lost_broker_connection_is_503_and_mends_itself(environment: dict[str, str], laptop: str) -> None:
    async with behind(environment, "AMQP_URL") as broker, ingesting(environment) as ingest:
        assert (await ingest.order(laptop)).status_code == 202
        broker.go_away()
        await eventually(answers(ingest, laptop, 503))
        check_problem(await quickly(ingest.order(laptop)), 503, "broker-unavailable")
        assert (await ingest.get("/readyz")).status_code == 503
        broker.come_back()
        await eventually(answers(ingest, laptop, 202))
        assert await ingest.metric('headrace_broker_connection_losses_total{connection="broker"}') >= 1


async def test_a_broker_that_hangs_leaves_the_outcome_unknown_within_the_deadline(
    environment: dict[str, str], laptop: str
) -> None:
    async with (
        behind(environment, "AMQP_URL") as broker,
        ingesting(environment, confirm_timeout_s=0.3) as ingest,
    ):
        await eventually(answers(ingest, laptop, 202))
        broker.hold()
        check_problem(await quickly(ingest.order(laptop)), 503, "outcome-unknown")
        check_problem(await quickly(ingest.order(laptop)), 503, "broker-unavailable")
        broker.come_back()
        await eventually(answers(ingest, laptop, 202))


async def test_what_happened_to_a_product_while_the_broker_was_away_is_learnt_afterwards(
    environment: dict[str, str], database_url: str, laptop: str
) -> None:
    async with behind(environment, "AMQP_URL") as broker, ingesting(environment) as ingest:
        assert (await ingest.order(laptop)).json()["unit_price"] == 1500
        broker.go_away()
        await execute(database_url, "UPDATE products SET price = 1600, version = version + 1 WHERE id = $1", laptop)
        broker.come_back()

        async def has_the_new_price() -> bool:
            response = await ingest.order(laptop)
            return response.status_code == 202 and response.json()["unit_price"] == 1600

        await eventually(has_the_new_price)


async def test_more_than_may_wait_is_refused_at_once(environment: dict[str, str], laptop: str) -> None:
    async with (
        behind(environment, "AMQP_URL") as broker,
        ingesting(environment, max_group_orders=2, max_waiting_orders=4) as ingest,
    ):
        assert (await ingest.order(laptop)).status_code == 202
        broker.hold()
        waiting = [asyncio.create_task(ingest.order(laptop)) for _ in range(4)]

        async def are_waiting() -> bool:
            return await ingest.metric("headrace_orders_in_flight") == 4

        await eventually(are_waiting)
        response = await quickly(ingest.order(laptop))
        check_problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) > 0
        broker.come_back()
        assert {response.status_code for response in await asyncio.gather(*waiting)} == {202}
        assert (await ingest.order(laptop)).status_code == 202
        assert await ingest.metric("headrace_orders_in_flight") == 0


async def test_a_full_queue_refuses_and_keeps_nothing_of_what_it_refused(
    environment: dict[str, str], servers: Servers, laptop: str
) -> None:
    async with ingesting(environment) as ingest:
        await limit_queues(servers, environment["AMQP_URL"], messages=5)
        accepted: list[httpx.Response] = []
        refused: list[httpx.Response] = []
        while len(refused) < 5:
            response = await ingest.order(laptop)
            (accepted if response.status_code == 202 else refused).append(response)
            assert len(accepted) < 100
        for response in refused:
            check_problem(response, 503, "overloaded")
            assert int(response.headers["retry-after"]) > 0
        queued = await ingest.queued_orders()
        assert sorted(queued) == sorted(response.content for response in accepted)


async def test_a_queue_that_was_deleted_is_503_and_not_a_lost_order_and_then_is_there_again(
    environment: dict[str, str], servers: Servers, laptop: str
) -> None:
    """Unroutable: the broker returns the message and still confirms it. No worker runs that would declare the queue."""
    async with ingesting(environment) as ingest, Management(servers.rabbitmq_api, environment["AMQP_URL"]) as broker:
        assert (await ingest.order(laptop)).status_code == 202
        await broker.delete_queue("orders.accepted")
        check_problem(await ingest.order(laptop), 503, "broker-unavailable")
        await eventually(answers(ingest, laptop, 202))
        assert len(await ingest.queued_orders()) == 1
        assert "a message was refused for want of a queue" in ingest.service.log()


# ── the database


@pytest.mark.parametrize("how", ["away", "hanging"])
async def test_without_the_database_known_products_sell_and_the_rest_is_503(
    environment: dict[str, str], database_url: str, laptop: str, how: str
) -> None:
    unknown = await insert_product(database_url)
    async with (
        behind(environment, "DATABASE_URL") as database,
        ingesting(environment, catalogue_ttl_s=0.01, database_timeout_s=0.3) as ingest,
    ):
        await eventually(answers(ingest, laptop, 202))  # the first connection may take longer than 0.3 s
        location = (await ingest.order(laptop)).headers["location"]
        assert (await ingest.get(location)).status_code == 200
        _break(database, how)
        for _ in range(3):
            assert (await quickly(ingest.order(laptop))).status_code == 202
        response = await quickly(ingest.order(unknown))
        check_problem(response, 503, "store-unavailable")
        assert int(response.headers["retry-after"]) > 0
        for _ in range(6):  # more requests than the pool has connections
            _check_pending_by_its_id(await quickly(ingest.get(location)))
        check_problem(await quickly(ingest.get(f"{ORDERS}/product/{laptop}")), 503, "store-unavailable")
        assert (await ingest.get("/readyz")).status_code == 200
        database.come_back()
        await eventually(answers(ingest, unknown, 202))
        assert (await ingest.get(location)).status_code == 200
        assert "unhandled" not in ingest.service.log()


def _check_pending_by_its_id(response: httpx.Response) -> None:
    """P6: what ingest_api can say of its own order without the database."""
    assert (response.status_code, response.headers["order-status-source"]) == (200, "id")
    assert response.json()["status"] == "PENDING"


async def test_it_starts_without_the_database(environment: dict[str, str], laptop: str) -> None:
    async with behind(environment, "DATABASE_URL") as database:
        database.go_away()
        async with ingesting(environment) as ingest:
            check_problem(await quickly(ingest.order(laptop)), 503, "store-unavailable")
            database.come_back()
            await eventually(answers(ingest, laptop, 202))


async def test_a_database_that_hangs_does_not_hold_up_a_stop(environment: dict[str, str], laptop: str) -> None:
    async with (
        behind(environment, "DATABASE_URL") as database,
        ingesting(environment, database_timeout_s=0.3) as ingest,
    ):
        await eventually(answers(ingest, laptop, 202))  # the first connection may take longer than 0.3 s
        location = (await ingest.order(laptop)).headers["location"]
        await asyncio.gather(*(ingest.get(location) for _ in range(4)))  # all of the pool's connections are open
        database.hold()
        _check_pending_by_its_id(await ingest.get(location))
        started = time.monotonic()
        assert await ingest.service.stop() == 0
        assert time.monotonic() - started < 5


async def test_an_old_price_does_not_sell_past_its_bound(environment: dict[str, str], laptop: str) -> None:
    async with (
        behind(environment, "DATABASE_URL") as database,
        ingesting(environment, catalogue_ttl_s=0.1, catalogue_max_stale_s=0.2) as ingest,
    ):
        assert (await ingest.order(laptop)).status_code == 202
        database.go_away()
        await eventually(answers(ingest, laptop, 503))
        check_problem(await ingest.order(laptop), 503, "store-unavailable")


# ── Redis


@pytest.mark.parametrize("how", ["away", "hanging"])
async def test_without_redis_it_works(environment: dict[str, str], database_url: str, laptop: str, how: str) -> None:
    products = [await insert_product(database_url) for _ in range(5)]
    async with behind(environment, "REDIS_URL") as redis, ingesting(environment) as ingest:
        assert (await ingest.order(laptop)).status_code == 202
        _break(redis, how)
        assert (await ingest.order(products[0])).status_code == 202
        for product_id in products:
            assert (await quickly(ingest.order(product_id))).status_code == 202


# ── clients


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_nobodys_bug(
    environment: dict[str, str], laptop: str
) -> None:
    async with ingesting(environment) as ingest:
        for sent in (b"", b'{"productId":"'):
            await _send_raw(ingest, _head(100) + sent)
        assert (await ingest.order(laptop)).status_code == 202
        assert ingest.service.log().count('"level":"error"') == 0


async def test_a_client_that_leaves_before_its_answer_has_ordered_all_the_same(
    environment: dict[str, str], laptop: str
) -> None:
    body = msgspec.json.encode({"productId": laptop, "quantity": 1})
    async with behind(environment, "AMQP_URL") as broker, ingesting(environment) as ingest:
        assert (await ingest.order(laptop)).status_code == 202
        broker.hold()
        await _send_raw(ingest, _head(len(body)) + body)
        broker.come_back()

        async def are_accepted() -> bool:
            return await ingest.metric("headrace_orders_accepted_total") == 2

        await eventually(are_accepted)
        assert ingest.service.log().count('"level":"error"') == 0


async def test_a_connection_lives_on_after_a_refusal_that_left_the_body_unread(
    environment: dict[str, str], laptop: str
) -> None:
    body = msgspec.json.encode({"productId": laptop, "quantity": 1})
    async with ingesting(environment) as ingest:
        reader, writer = await _connect(ingest)
        writer.write(_head(200_000, b"text/plain") + b"x" * 200_000 + _head(len(body)) + body)
        first = await reader.readuntil(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 415 ")
        rest = await reader.readuntil(b"HTTP/1.1 ") + await reader.readuntil(b"\r\n")
        assert rest.endswith(b"HTTP/1.1 202 Accepted\r\n")
        writer.close()


def _head(length: int, content_type: bytes = b"application/json") -> bytes:
    return (b"POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n") % (
        content_type,
        length,
    )


async def _connect(ingest: Ingest) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(ingest.service.url)
    return await asyncio.open_connection(address.hostname, address.port)


async def _send_raw(ingest: Ingest, content: bytes) -> None:
    """Send a request, and leave once it is in hand. A later answer on another connection shows that it was taken."""
    _, writer = await _connect(ingest)
    writer.write(content)
    await writer.drain()
    await ingest.get("/livez")
    writer.close()
    await writer.wait_closed()
    await ingest.get("/livez")
