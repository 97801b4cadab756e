"""Each failpoint in a real process: it fires exactly where its name says, and no order is lost."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from database.connection import Connection
from persist_worker.write import write
from pipeline.contract import topology
from tests.chaos.faults import failpoints
from tests.support.brokers.broker import plain_channel, send_orders, unsettled
from tests.support.data.orders import basket, order
from tests.support.data.products import Audit
from tests.support.services.ingest import ORDERS, elements_of, ingesting, insert_product, messages_in
from tests.support.services.processes import Service, service_process
from tests.support.services.workers import connected, stored_orders, verdicts
from tests.support.time.conditions import eventually

KILLED = -signal.SIGKILL
ACCEPTED, CREATED = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as connection:
        yield connection


@asynccontextmanager
async def failing(environment: dict[str, str], failpoint: str, once: Path | None = None) -> AsyncIterator[Service]:
    """A ready service with this failpoint. `once`: the file that the failpoint makes when it fires."""
    name, _, _ = failpoint.partition(":")
    variables = {failpoints.VARIABLE: failpoint}
    if once:
        variables[failpoints.ONCE_VARIABLE] = str(once)
    service = failpoints.BY_NAME[name].service
    async with service_process(service, {**environment, **variables}, program="tests.chaos.faults.failing") as process:
        yield process


async def publish(environment: dict[str, str], key: str, product_id: str) -> str:
    wanted = order(product_id)
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await send_orders(channel, topology.ORDERS_EXCHANGE, key, wanted)
    return wanted.id


async def holds(environment: dict[str, str], queue: str, count: int) -> bool:
    """Whether this many messages are ready in a queue."""
    return await unsettled(environment["AMQP_URL"], queue) == count


# ── persist_worker


@pytest.mark.parametrize(
    ("name", "is_stored", "forwarded"),
    [
        ("persist.mid_copy", False, 0),
        ("persist.commit_sent", True, 0),
        ("persist.after_commit_before_forward", True, 0),
        ("persist.after_forward_before_ack", True, 1),
    ],
)
async def test_p1_p2_persist_worker_dies_where_it_is_told(
    environment: dict[str, str], database: Connection, name: str, is_stored: bool, forwarded: int
) -> None:
    product_id = await insert_product(environment["DATABASE_URL"])
    async with failing(environment, f"{name}:kill") as worker:
        order_id = await publish(environment, topology.ORDER_ACCEPTED, product_id)
        assert await worker.ended() == KILLED
    if is_stored:
        await eventually(lambda: stored_orders(database))
    else:
        assert await stored_orders(database) == {}
    assert await holds(environment, CREATED, forwarded)
    async with service_process("persist_worker", environment) as successor:
        await eventually(lambda: holds(environment, CREATED, forwarded + 1))
        assert await successor.stop() == 0
    assert await holds(environment, ACCEPTED, 0)
    assert await stored_orders(database) == {order_id: (product_id, 1)}


@pytest.mark.parametrize(("name", "path"), [("persist.mid_copy", "direct"), ("persist.commit_sent", "staging")])
async def test_p1_p2_persist_worker_is_cut_off_from_postgres_where_it_is_told(
    environment: dict[str, str], database: Connection, name: str, path: str
) -> None:
    """The worker does not learn whether the rows were stored. If they were, the next attempt uses staging."""
    product_id = await insert_product(environment["DATABASE_URL"])
    async with failing(environment, f"{name}:cut") as worker:
        order_id = await publish(environment, topology.ORDER_ACCEPTED, product_id)
        await eventually(lambda: holds(environment, CREATED, 1))
        assert "database fault; holding the batch" in worker.log()
        assert await worker.metric(f'headrace_copy_path_total{{path="{path}"}}') == 1
    assert await stored_orders(database) == {order_id: (product_id, 1)}


async def test_a_service_that_is_stopped_goes_on_from_there(
    environment: dict[str, str], database: Connection, tmp_path: Path
) -> None:
    happened = tmp_path / "happened"
    async with failing(environment, "persist.after_commit_before_forward:stop", happened) as worker:
        await publish(environment, topology.ORDER_ACCEPTED, await insert_product(environment["DATABASE_URL"]))
        await eventually(lambda: worker.is_stopped)
        assert happened.exists()
        assert len(await stored_orders(database)) == 1
        assert await holds(environment, CREATED, 0)
        worker.process.send_signal(signal.SIGCONT)
        await eventually(lambda: holds(environment, CREATED, 1))


async def test_what_happened_once_does_not_happen_again(environment: dict[str, str], tmp_path: Path) -> None:
    """At the second order, in the first process."""
    product_id = await insert_product(environment["DATABASE_URL"])
    point, happened = "persist.after_commit_before_forward:kill:2", tmp_path / "happened"
    async with failing(environment, point, happened) as worker:
        await publish(environment, topology.ORDER_ACCEPTED, product_id)
        await eventually(lambda: holds(environment, CREATED, 1))
        await publish(environment, topology.ORDER_ACCEPTED, product_id)
        assert await worker.ended() == KILLED
    async with failing(environment, point, happened):
        await eventually(lambda: holds(environment, CREATED, 2))
        for count in (3, 4):
            await publish(environment, topology.ORDER_ACCEPTED, product_id)
            await eventually(lambda count=count: holds(environment, CREATED, count))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("persist.mid_copy", 0),
        ("persist.commit_sent", 3),
        ("persist.after_commit_before_forward", 3),
        ("persist.after_forward_before_ack", 3),
        ("stock.commit_sent", 3),
        ("stock.after_commit_before_bust", 3),
    ],
)
async def test_p1_p2_p3_a_basket_is_whole_wherever_its_worker_dies(
    environment: dict[str, str], database: Connection, name: str, stored: int
) -> None:
    products = [await insert_product(environment["DATABASE_URL"], qty=50) for _ in range(3)]
    wanted = basket(*((product_id, 2) for product_id in products))
    async with failing(environment, f"{name}:kill") as worker:
        if name.startswith("stock"):
            await write(database, [wanted], [])
        key = topology.ORDER_CREATED if name.startswith("stock") else topology.ORDER_ACCEPTED
        async with plain_channel(environment["AMQP_URL"]) as channel:
            await send_orders(channel, topology.ORDERS_EXCHANGE, key, wanted)
        assert await worker.ended() == KILLED
    await eventually(lambda: found_lines(database, stored))
    async with service_process("persist_worker", environment), service_process("product_consumer", environment):
        await eventually(lambda: verdicts(database))
        await eventually(lambda: holds(environment, ACCEPTED, 0))
    assert await found_lines(database, 3)
    assert await verdicts(database) == {wanted.id: None}
    assert [await Audit(database).qty(product_id) for product_id in products] == [48, 48, 48]
    assert await Audit(database).unbalanced() == []


async def found_lines(database: Connection, count: int) -> bool:
    return bool(await database.fetchval("SELECT count(*) FROM orders") == count)


# ── product_consumer


@pytest.mark.parametrize(
    ("name", "is_busted"),
    [
        ("stock.commit_sent", False),
        ("stock.after_commit_before_bust", False),
        ("stock.after_bust_before_ack", True),
    ],
)
async def test_p2_p3_p7_product_consumer_dies_where_it_is_told(
    environment: dict[str, str], database: Connection, name: str, is_busted: bool
) -> None:
    product_id = await insert_product(environment["DATABASE_URL"], qty=50)
    async with service_process("product_api", environment) as api, httpx.AsyncClient(base_url=api.url) as client:

        async def seen_qty() -> int:
            return int((await client.get(f"/products/{product_id}")).json()["qty"])

        assert await seen_qty() == 50
        async with failing(environment, f"{name}:kill") as consumer:
            order_id = await publish(environment, topology.ORDER_CREATED, product_id)
            assert await consumer.ended() == KILLED
        await eventually(lambda: verdicts(database))
        assert await seen_qty() == (49 if is_busted else 50)
        async with service_process("product_consumer", environment) as successor:
            await eventually(lambda: successor.metric('headrace_orders_duplicate_total{stage="stock"}'))
            assert await successor.stop() == 0
        assert await holds(environment, CREATED, 0)
        assert await verdicts(database) == {order_id: None}
        assert await seen_qty() == await Audit(database).qty(product_id) == 49
        assert await Audit(database).unbalanced() == []


# ── ingest_api


async def test_p1_ingest_api_dies_when_the_broker_has_the_order_and_nobody_knows(environment: dict[str, str]) -> None:
    product_id = await insert_product(environment["DATABASE_URL"])
    async with (
        failing(environment, "ingest.published_before_confirm:kill") as ingest,
        httpx.AsyncClient(base_url=ingest.url) as client,
    ):
        with pytest.raises(httpx.TransportError):
            await client.post(ORDERS, json={"productId": product_id, "quantity": 1})
        assert await ingest.ended() == KILLED

    async def queued() -> list[bytes]:
        messages = await messages_in(environment["AMQP_URL"], topology.ORDERS_ACCEPTED_QUEUE)
        return [it for message in messages for it in elements_of(message.body)]

    assert len(await eventually(queued)) == 1


# ── product_api


async def test_p7_product_api_dies_between_commit_and_bust_and_the_age_of_a_price_is_bounded_once(
    environment: dict[str, str],
) -> None:
    """The cache holds the old price for its TTL. ingest_api counts its age from when it was read from PostgreSQL."""
    product_id, max_age_s = await insert_product(environment["DATABASE_URL"], "10.00"), 6.0
    async with failing(environment, "product.after_commit_before_bust:kill") as api:
        async with httpx.AsyncClient(base_url=api.url) as client:
            await client.get(f"/products/{product_id}")  # which fills the cache
            read_at = time.monotonic()
            with pytest.raises(httpx.TransportError):
                await client.patch(f"/products/{product_id}", json={"price": 25})
        assert await api.ended() == KILLED
    # Patient: an old price sells while PostgreSQL takes longer than a moment to answer.
    async with ingesting(environment, catalogue_ttl_s=max_age_s, catalogue_patience_s=5) as ingest:
        assert (await ingest.order(await insert_product(environment["DATABASE_URL"], "1.00"))).status_code == 202
        await asyncio.sleep(max(0.0, read_at + max_age_s - 2 - time.monotonic()))  # almost as old as it may be

        async def is_new() -> bool:
            asked_at = time.monotonic()
            order = (await ingest.order(product_id)).json()
            assert order["unit_price"] == 25 or asked_at < read_at + max_age_s
            return bool(order["unit_price"] == 25)

        await eventually(is_new, timeout_s=2 * max_age_s)
