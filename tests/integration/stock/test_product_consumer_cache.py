"""After a commit, product_consumer busts the cache and announces sold-out products; neither delays an order (P7)."""

import time

import pytest

from database.connection import Connection
from pipeline.cache.product_cache import CachedProduct, ProductCache
from pipeline.contract import topology
from tests.support.brokers.broker import gets_back, unsettled
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.deciding import create, heard, product_events, sold_out
from tests.support.services.processes import service_process
from tests.support.services.workers import add_product, product_consumer, qty_of, verdicts
from tests.support.time.conditions import eventually

A, B, UNKNOWN = (new_product_id() for _ in range(3))
CREATED = topology.ORDERS_CREATED_QUEUE
_OLD = b'{"qty":"as it was"}'


async def test_the_last_unit_is_announced(environment: dict[str, str], connection: Connection) -> None:
    await add_product(connection, A, 5)
    await create(environment, [order(A, 3), order(A, 2)])
    async with product_events(environment) as events, product_consumer(environment) as worker:
        await worker.run_once()
        assert await heard(events) == [sold_out(A, 2)]


async def test_a_door_that_goes_on_accepting_is_told_again(environment: dict[str, str], connection: Connection) -> None:
    """An ingest_api missed the announcement, or had not started yet."""
    await add_product(connection, A, 0)
    async with product_events(environment) as events, product_consumer(environment) as worker:
        await create(environment, [order(A)])
        await worker.run_once()
        assert await heard(events) == [sold_out(A, 1)]


async def test_a_deleted_product_is_not_announced_as_one_that_is_sold_out(
    environment: dict[str, str], connection: Connection
) -> None:
    """The event would mark the product as not deleted."""
    await add_product(connection, A, 0)
    await connection.execute("UPDATE products SET deleted_at = now() WHERE id = $1", A)
    await create(environment, [order(A)])
    async with product_events(environment) as events, product_consumer(environment) as worker:
        await worker.run_once()
        assert await heard(events) == []


async def test_a_product_of_which_nothing_was_taken_stays_in_the_cache(
    environment: dict[str, str], connection: Connection, cache: ProductCache
) -> None:
    await add_product(connection, A, 1)
    await cache.fill(A, 1, _OLD)
    await create(environment, [order(A, 2)])
    async with product_consumer(environment) as worker:
        await worker.run_once()
    assert await cache.read(A) == CachedProduct(1, _OLD)


@pytest.mark.parametrize("point", ["commit", "bust", "announce", "ack"])
async def test_p7_a_death_before_each_step_leaves_nothing_stale_and_nobody_untold(
    environment: dict[str, str], connection: Connection, cache: ProductCache, point: str
) -> None:
    await add_product(connection, A, 5)
    await cache.fill(A, 1, _OLD)
    orders = [order(A, 3), order(A, 2), order(A)]
    await create(environment, orders)
    async with product_consumer(environment) as worker:
        owner, method = {
            "commit": (worker.database, "until_it_works"),
            "bust": (worker.service._cache, "bust_or_defer"),
            "announce": (worker.publisher, "publish"),
            "ack": (worker.consumer, "settle"),
        }[point]
        await worker.die_before(owner, method)
    before = await verdicts(connection)
    assert len(before) == (0 if point == "commit" else 3)
    await gets_back(environment["AMQP_URL"], CREATED, 1)
    async with product_events(environment) as events, product_consumer(environment) as worker:
        assert await worker.run_once() == 3
        assert await heard(events) == [sold_out(A, 2)]
    assert await cache.read(A) is None
    assert not await cache.fill(A, 1, _OLD)
    assert await verdicts(connection) == before or point == "commit"
    assert list((await verdicts(connection)).values()).count(None) == 2
    assert await unsettled(environment["AMQP_URL"], CREATED) == 0


async def test_p7_what_is_busted_late_does_not_cost_what_was_filled_since(
    environment: dict[str, str], connection: Connection, cache: ProductCache
) -> None:
    await add_product(connection, A, 5)
    await create(environment, [order(A)])
    async with product_consumer(environment) as worker:
        await worker.die_before(worker.service._cache, "bust_or_defer")
    await cache.fill(A, 2, b"as it is")
    async with product_consumer(environment) as worker:
        await worker.run_once()
    assert await cache.read(A) == CachedProduct(2, b"as it is")


async def test_without_redis_orders_are_decided(environment: dict[str, str], connection: Connection) -> None:
    await add_product(connection, A, 5)
    async with proxy_to(environment["REDIS_URL"]) as proxy:
        far = {**environment, "REDIS_URL": proxy.url(environment["REDIS_URL"])}
        async with product_consumer(far) as worker:
            proxy.go_away()
            for _ in range(3):
                await create(environment, [order(A)])
                assert await worker.run_once() == 1
    assert await qty_of(connection, A) == 2
    assert await unsettled(environment["AMQP_URL"], CREATED) == 0


async def test_a_redis_that_hangs_costs_a_batch_its_deadline_and_no_more(
    environment: dict[str, str], connection: Connection
) -> None:
    await add_product(connection, A, 5)
    async with proxy_to(environment["REDIS_URL"]) as proxy:
        far = {**environment, "REDIS_URL": proxy.url(environment["REDIS_URL"])}
        async with product_consumer(far) as worker:
            proxy.hold()
            for _ in range(3):
                await create(environment, [order(A)])
                began = time.monotonic()
                assert await worker.run_once() == 1
                assert time.monotonic() - began < 3
    assert await qty_of(connection, A) == 2
    assert await unsettled(environment["AMQP_URL"], CREATED) == 0


async def test_p7_busts_owed_to_redis_are_paid_although_no_order_comes(
    environment: dict[str, str], connection: Connection, cache: ProductCache
) -> None:
    await add_product(connection, A, 5)
    await cache.fill(A, 1, _OLD)
    async with proxy_to(environment["REDIS_URL"]) as proxy:
        far = {**environment, "REDIS_URL": proxy.url(environment["REDIS_URL"])}
        async with service_process("product_consumer", far) as service:
            await eventually(lambda: proxy.connections >= 1)
            proxy.go_away()
            await create(environment, [order(A)])
            await eventually(lambda: verdicts(connection))
            assert await cache.read(A) == CachedProduct(1, _OLD)
            proxy.come_back()
            await eventually(lambda: _is_gone(cache))
            assert await service.stop() == 0


async def _is_gone(cache: ProductCache) -> bool:
    return await cache.read(A) is None


async def test_a_broker_that_does_not_confirm_announcements_holds_nobody_up_for_long(
    environment: dict[str, str], connection: Connection
) -> None:
    products = [new_product_id() for _ in range(20)]
    for product_id in products:
        await add_product(connection, product_id, 1)
    async with proxy_to(environment["AMQP_URL"]) as proxy, product_consumer(environment) as worker:
        far = {**environment, "AMQP_URL": proxy.url(environment["AMQP_URL"])}
        async with product_consumer(far) as other:
            worker.service._publisher = other.publisher
            await other.consumer.stop()
            proxy.hold()
            await create(environment, [order(product_id) for product_id in products])
            began = time.monotonic()
            assert await worker.run_once() == 20
            assert time.monotonic() - began < 2
            proxy.release()
    assert list((await verdicts(connection)).values()) == [None] * 20
