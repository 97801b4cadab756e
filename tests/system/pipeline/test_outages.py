"""A server goes away while orders flow. Afterwards exactly the accepted orders are stored and decided."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from pipeline.contract import topology
from tests.support.brokers.broker import plain_channel
from tests.support.clients.load import loading
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.deployment import Deployment, deployed
from tests.support.time.conditions import eventually

QTY = 1_000_000


@dataclass(frozen=True)
class Servers:
    """A proxy in front of each server, for the services."""

    database: Proxy
    broker: Proxy
    redis: Proxy


@pytest.fixture
async def servers_between(environment: dict[str, str]) -> AsyncIterator[Servers]:
    async with (
        proxy_to(environment["DATABASE_URL"]) as database,
        proxy_to(environment["AMQP_URL"]) as broker,
        proxy_to(environment["REDIS_URL"]) as redis,
    ):
        yield Servers(database, broker, redis)


@pytest.fixture
async def redis_is_away(servers_between: Servers) -> None:
    """Redis is away from the start, for tests that name this before `deployment`."""
    servers_between.redis.go_away()


@pytest.fixture
async def deployment(environment: dict[str, str], servers_between: Servers) -> AsyncIterator[Deployment]:
    through = {
        "DATABASE_URL": servers_between.database.url(environment["DATABASE_URL"]),
        "AMQP_URL": servers_between.broker.url(environment["AMQP_URL"]),
        "REDIS_URL": servers_between.redis.url(environment["REDIS_URL"]),
    }
    async with deployed({**environment, **through}, database_url=environment["DATABASE_URL"]) as deployment:
        yield deployment


@pytest.fixture
async def products(deployment: Deployment) -> list[str]:
    return [await deployment.create_product(QTY) for _ in range(5)]


async def test_while_postgres_is_away_orders_are_accepted_and_afterwards_they_are_decided(
    servers_between: Servers, deployment: Deployment, products: list[str]
) -> None:
    """P1, P4."""
    async with loading(deployment.url("ingest_api"), products) as load:
        await load.more(300)
        servers_between.database.go_away()
        await load.more(1_000)
        assert len(await deployment.outcomes(*products)) < load.answered - 500, "PostgreSQL was not away"
        await eventually(lambda: is_unready(deployment, "persist_worker"))
        servers_between.database.come_back()
        await load.more(300)
        result = await load.end()
    assert set(result.by_status()) == {202}
    assert await deployment.check_books(result, *products) == 0
    assert set((await deployment.outcomes(*products)).values()) == {"PROCESSED"}


async def test_while_the_broker_is_away_orders_are_refused_and_the_accepted_ones_are_decided(
    servers_between: Servers, deployment: Deployment, products: list[str]
) -> None:
    """P1, P8."""
    async with loading(deployment.url("ingest_api"), products) as load:
        await load.more(300)
        servers_between.broker.go_away()
        await eventually(lambda: is_unready(deployment, "ingest_api"))
        servers_between.broker.come_back()
        await load.more(1_000)
        result = await load.end()
    assert set(result.by_status()) == {202, 503}
    await deployment.check_books(result, *products)


@pytest.mark.usefixtures("redis_is_away")
async def test_without_redis_orders_are_accepted_stored_and_decided_and_reads_work(
    deployment: Deployment, products: list[str]
) -> None:
    async with loading(deployment.url("ingest_api"), products, orders=1_000) as load:
        result = await load.all()
    assert result.by_status() == {202: 1_000}
    assert await deployment.check_books(result, *products) == 0
    for product_id in products:
        assert (await deployment.product(product_id))["qty"] == QTY - 200
    errors = 'headrace_cache_reads_total{result="error"}'
    assert await deployment.services["product_api"].metric(errors) >= 5, "Redis was not away"


async def test_after_a_redis_outage_the_busts_are_made_up_for(
    servers_between: Servers, deployment: Deployment, products: list[str]
) -> None:
    """P7: the next order, of any product, repeats all owed busts."""
    product_id, another, *_ = products
    assert (await deployment.product(product_id))["qty"] == QTY
    servers_between.redis.go_away()
    await deployment.order(product_id, 3)
    consumer = deployment.services["product_consumer"]
    await eventually(lambda: consumer.metric('headrace_cache_busts_total{result="owed"}'))
    servers_between.redis.come_back()
    await deployment.order(another)

    async def is_true() -> bool:
        return bool((await deployment.product(product_id))["qty"] == QTY - 3)

    await eventually(is_true)


async def test_what_somebody_deletes_at_the_broker_is_declared_again_by_whoever_misses_it(
    environment: dict[str, str], deployment: Deployment, products: list[str]
) -> None:
    """The first refused order or cancelled consumer repairs it, without an operator."""
    services = dict(deployment.services)

    async def is_decided() -> bool:
        response = await deployment.order(products[0])
        if response.status_code != 202:
            assert response.status_code == 503, response.text
            return False
        return bool(await eventually(lambda: deployment.verdict(response.json()["id"])))

    async with plain_channel(environment["AMQP_URL"]) as channel:
        await eventually(is_decided)
        for queue, key in _QUEUES:
            await channel.queue_delete(queue)
            await eventually(is_decided)
            await (await channel.get_queue(queue, ensure=False)).unbind(topology.ORDERS_EXCHANGE, key)
            await eventually(is_decided)
        await channel.exchange_delete(topology.ORDERS_EXCHANGE)
        await eventually(is_decided)
    for name in deployment.services:
        await eventually(lambda name=name: deployment.is_ready(name))  # type: ignore[misc]
    assert [it.process.returncode for it in services.values()] == [None] * len(services)


_QUEUES = [
    (topology.ORDERS_ACCEPTED_QUEUE, topology.ORDER_ACCEPTED),
    (topology.ORDERS_CREATED_QUEUE, topology.ORDER_CREATED),
]


async def is_unready(deployment: Deployment, name: str) -> bool:
    return not await deployment.is_ready(name)
