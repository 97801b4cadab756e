"""The first page of a product's orders through the cache: leases, races, two seconds, and Redis away."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from pipeline.cache.order_list_cache import MAX_AGE_S, Lease, OrderListCache
from pipeline.cache.product_cache import ProductCache
from pipeline.cache.redis_link import connect
from pipeline.contract import topology
from pipeline.contract.orders import Order
from tests.support.brokers.broker import plain_channel, send_orders
from tests.support.data.orders import T0, order
from tests.support.data.redis_names import NAMESPACE
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.scenes.order_reads import Reads, decide_order, notify, order_reads, store_order
from tests.support.services.ingest import ORDERS
from tests.support.services.processes import free_port
from tests.support.services.workers import add_product, connected, product_consumer
from tests.support.time.conditions import eventually

_ID = "01a20267-97ad-7199-a6a6-540000cf26ec"
_LIST = f"{ORDERS}/product/{_ID}"
_KEY = f"{NAMESPACE}orders-of-product:{_ID}"


@pytest.fixture
def cache(redis: Redis) -> OrderListCache:
    return OrderListCache(redis, NAMESPACE)


@pytest.fixture
async def reads(environment: dict[str, str]) -> AsyncIterator[Reads]:
    async with order_reads(environment) as it:
        yield it


async def _lease(cache: OrderListCache, whose: str = "", product_id: str = _ID) -> Lease:
    found = await cache.read(product_id, whose)
    assert isinstance(found, Lease)
    return found


async def _statuses(reads: Reads, client: str = "") -> list[str]:
    response = await reads.get(_LIST, client)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    return [it["status"] for it in response.json()]


async def _send_created(environment: dict[str, str], *orders: Order) -> None:
    """As persist_worker does."""
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_CREATED, *orders)


# ── leases


async def test_a_page_is_read_as_it_was_filled_by_whom_it_is_for(cache: OrderListCache) -> None:
    for whose, page in (("", b"all"), ("shop", b"\n\x00theirs"), ("lease", b"of one who calls itself that")):
        assert await cache.fill(await _lease(cache, whose), page)
    assert await cache.read(_ID, "shop") == b"\n\x00theirs"
    assert await cache.read(_ID, "") == b"all"
    assert await cache.read(_ID, "lease") == b"of one who calls itself that"
    assert isinstance(await cache.read(_ID, "another"), Lease)


async def test_a_slow_reader_cannot_put_an_old_page_back_after_a_bust(cache: OrderListCache) -> None:
    slow = await _lease(cache)
    await cache.bust([_ID])
    assert not await cache.fill(slow, b"old")
    new = await _lease(cache)
    assert not await cache.fill(slow, b"old")
    assert await cache.fill(new, b"new")
    assert not await cache.fill(slow, b"old")
    assert await cache.read(_ID, "") == b"new"


async def test_a_bust_takes_all_pages_of_the_product_and_no_other(cache: OrderListCache) -> None:
    for whose in ("", "shop"):
        await cache.fill(await _lease(cache, whose), b"old")
    await cache.fill(await _lease(cache, "", "another"), b"kept")
    assert await cache.bust([_ID, "a third"])
    assert isinstance(await cache.read(_ID, ""), Lease)
    assert isinstance(await cache.read(_ID, "shop"), Lease)
    assert await cache.read("another", "") == b"kept"


async def test_whatever_the_order_of_fills_and_busts_nothing_older_than_the_last_bust_is_read(
    cache: OrderListCache,
) -> None:
    """A hundred rounds of everything at once: the interleavings are Redis's own. What readers read is `committed`."""
    for round_ in range(100):
        product_id = f"{_ID}-{round_}"
        committed = 1

        async def read(product_id: str = product_id) -> None:
            lease = await cache.read(product_id, "")
            page = b"%d" % committed  # noqa: B023
            await asyncio.sleep(0)
            if isinstance(lease, Lease):
                await cache.fill(lease, page)

        async def change(product_id: str = product_id) -> None:
            nonlocal committed
            committed += 1
            await cache.bust([product_id])

        work = [read() for _ in range(6)] + [change() for _ in range(3)]
        random.shuffle(work)
        await asyncio.gather(*work)
        assert await cache.read(product_id, "") == b"4" or isinstance(await cache.read(product_id, ""), Lease)


async def test_no_page_is_older_than_two_seconds_counted_from_before_it_was_read(
    cache: OrderListCache, redis: Redis
) -> None:
    lease = await _lease(cache)
    first_ms = await redis.pttl(_KEY)
    assert 0 < first_ms <= 1000 * MAX_AGE_S == 2000
    await eventually(lambda: _pttl_below(redis, first_ms))
    assert await cache.fill(lease, b"page")
    assert await redis.pttl(_KEY) < first_ms
    assert await cache.read(_ID, "") == b"page"
    assert await redis.pttl(_KEY) < first_ms


async def _pttl_below(redis: Redis, ms: int) -> bool:
    return bool(await redis.pttl(_KEY) < ms)


async def test_what_others_put_there_is_a_miss_and_makes_way(cache: OrderListCache, redis: Redis) -> None:
    lease = await _lease(cache)
    await redis.set(_KEY, "a string")
    assert not await cache.fill(lease, b"old")
    assert await cache.fill(await _lease(cache), b"new")
    assert await cache.read(_ID, "") == b"new"
    await redis.delete(_KEY)
    await redis.hset(_KEY, mapping={"page:": "without a lease"})
    assert await cache.fill(await _lease(cache), b"new")
    assert 0 < await redis.pttl(_KEY) <= 2000


async def test_a_redis_that_was_emptied_has_busted_everything(cache: OrderListCache, redis: Redis) -> None:
    lease = await _lease(cache)
    await redis.flushdb()
    assert not await cache.fill(lease, b"old")


# ── the list as clients read it


async def test_p7_a_cached_first_page_is_the_answer_with_its_link(reads: Reads, database_url: str) -> None:
    for number in range(51):
        await store_order(database_url, _ID, at=T0 + timedelta(seconds=number))
    first = await reads.get(_LIST)
    again = await reads.get(f"{_LIST}?limit=50")
    assert reads.orders.selected == 1
    assert (again.content, again.headers["link"]) == (first.content, first.headers["link"])
    assert len(first.json()) == 50
    assert len((await reads.get(first.links["next"]["url"])).json()) == 1
    assert len((await reads.get(f"{_LIST}?limit=49")).json()) == 49
    assert reads.orders.selected == 3


async def test_p7_a_reader_that_is_overtaken_by_a_verdict_does_not_put_the_old_page_back(
    reads: Reads, database_url: str, redis: Redis
) -> None:
    order_id = await store_order(database_url, _ID)
    held = reads.orders.hold()
    overtaken = asyncio.create_task(_statuses(reads))
    await eventually(lambda: reads.orders.selected == 1)
    reads.orders.holding = None
    await decide_order(database_url, order_id, _ID)
    assert await ProductCache(redis, NAMESPACE).bust_or_defer([(_ID, 2)])
    later = asyncio.create_task(_statuses(reads))  # shares nothing with the one before the bust
    held.set()
    assert await overtaken == ["PENDING"]
    assert await later == ["PROCESSED"]
    assert await _statuses(reads) == ["PROCESSED"]


async def test_a_stampede_is_two_selects_at_the_most(reads: Reads, database_url: str) -> None:
    await store_order(database_url, _ID)
    answers = await asyncio.gather(*(_statuses(reads) for _ in range(200)))
    assert answers == [["PENDING"]] * 200
    assert reads.orders.selected <= 2


async def test_p7_product_consumer_busts_the_list_once_a_batch(
    environment: dict[str, str], database_url: str, reads: Reads
) -> None:
    """Stored by hand, so that only product_consumer can have busted it; and read again before two seconds can do it."""
    orders = [order(_ID) for _ in range(3)]
    async with connected(database_url) as connection:
        await add_product(connection, _ID, 2)
    for it in orders:
        await store_order(database_url, _ID, order_id=it.id, at=it.created_at)
    async with product_consumer(environment) as worker:
        await _send_created(environment, *orders)
        assert await _statuses(reads) == ["PENDING"] * 3
        began = time.monotonic()
        assert await worker.run_once() == 3
        assert sorted(await _statuses(reads)) == ["FAILED", "PROCESSED", "PROCESSED"]
        assert time.monotonic() - began < MAX_AGE_S


async def test_p7_a_bust_that_is_owed_takes_the_lists_with_it(redis_url: str, cache: OrderListCache) -> None:
    async with proxy_to(redis_url) as proxy, connect(proxy.url(redis_url)) as client:
        far_cache = ProductCache(client, NAMESPACE)
        proxy.go_away()
        assert not await far_cache.bust_or_defer([(_ID, 2)])
        lease = await _lease(cache)
        proxy.come_back()
        assert await eventually(far_cache.bust_deferred)
        assert not await cache.fill(lease, b"old")


async def test_p7_who_has_waited_for_a_verdict_finds_it_in_the_list_although_nobody_has_busted_it(
    environment: dict[str, str], database_url: str, reads: Reads
) -> None:
    """product_consumer dies between its commit and its bust."""
    it = order(_ID)
    async with connected(database_url) as connection:
        await add_product(connection, _ID, 2)
    await store_order(database_url, _ID, order_id=it.id, at=it.created_at)
    async with product_consumer(environment) as worker:
        await _send_created(environment, it)
        waiting = asyncio.create_task(reads.get(f"{ORDERS}/{it.id}?wait=20"))
        await eventually(lambda: reads.orders.selected == 1)
        assert await _statuses(reads) == ["PENDING"]
        await worker.die_before(worker.service._cache, "bust_or_defer")
        assert await _statuses(reads) == ["PENDING"]  # cached
        await notify(database_url)  # of another batch
        assert (await waiting).json()["status"] == "PROCESSED"
        assert await _statuses(reads) == ["PROCESSED"]


async def test_p7_the_first_look_of_who_waits_counts_as_well(reads: Reads, database_url: str) -> None:
    order_id = await store_order(database_url, _ID)
    assert await _statuses(reads) == ["PENDING"]
    await decide_order(database_url, order_id, _ID)
    assert await _statuses(reads) == ["PENDING"]
    assert (await reads.get(f"{ORDERS}/{order_id}?wait=1")).json()["status"] == "PROCESSED"
    assert await _statuses(reads) == ["PROCESSED"]


# ── Redis away


async def test_without_redis_the_list_comes_from_postgresql(environment: dict[str, str], database_url: str) -> None:
    await store_order(database_url, _ID)
    environment["REDIS_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    async with order_reads(environment) as reads:
        began = time.monotonic()
        for _ in range(50):
            assert await _statuses(reads) == ["PENDING"]
        assert time.monotonic() - began < 10  # not a quarter of a second for each


@pytest.mark.alone
async def test_a_redis_that_hangs_costs_the_waiting_a_quarter_of_a_second(
    environment: dict[str, str], database_url: str, redis_url: str
) -> None:
    order_id = await store_order(database_url, _ID)
    async with proxy_to(redis_url) as proxy:
        environment["REDIS_URL"] = proxy.url(redis_url)
        async with order_reads(environment) as reads:
            await _statuses(reads)
            proxy.hold()
            await decide_order(database_url, order_id, _ID)
            began = time.monotonic()
            assert (await reads.get(f"{ORDERS}/{order_id}?wait=20")).json()["status"] == "PROCESSED"
            assert time.monotonic() - began < 0.9
            assert await _statuses(reads) == ["PROCESSED"]  # it is known to be away, so its old page is not read
            await _back(reads, proxy)


async def _back(reads: Reads, proxy: Proxy) -> None:
    proxy.come_back()

    async def is_cached() -> bool:
        before = reads.orders.selected
        await _statuses(reads)
        return reads.orders.selected == before

    await eventually(is_cached)
