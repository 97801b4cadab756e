"""GET /api/v1/orders?id=…&id=…: several orders in one answer, each by the rules of GET of one."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from pipeline.contract.order_ids import OrderIds
from tests.support.data.orders import new_product_id
from tests.support.faults.faults import proxy_to
from tests.support.scenes.changing_key import ChangingKey
from tests.support.scenes.order_reads import Reads, decide_order, notify, order_reads, park_order, store_order
from tests.support.services.ingest import ORDERS, Ingest, check_problem
from tests.support.time.conditions import eventually
from web.access.clients import OPS

PRODUCT = new_product_id()


@pytest.fixture
async def reads(environment: dict[str, str]) -> AsyncIterator[Reads]:
    async with order_reads(environment, timeout_s=30) as it:
        yield it


def path_of(order_ids: Sequence[str], wait: str = "") -> str:
    return f"{ORDERS}?{'&'.join(f'id={it}' for it in order_ids)}{f'&wait={wait}' if wait else ''}"


def statuses(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [it["status"] for it in response.json()]


async def test_p6_an_order_is_there_from_its_202_on_in_the_order_asked(ingest: Ingest, laptop: str) -> None:
    ids = [(await ingest.order(laptop)).json()["id"] for _ in range(3)]
    response = await ingest.get(path_of([ids[2], ids[0].upper(), ids[1], ids[2]]))
    assert response.json() == [
        {"id": it, "status": "PENDING", "final": False} for it in (ids[2], ids[0], ids[1], ids[2])
    ]
    assert response.headers["order-status-source"] == "store"
    assert response.headers["cache-control"] == "no-store"


async def test_each_order_is_answered_as_get_answers_it_and_one_that_would_be_404_is_left_out(
    reads: Reads, database_url: str, order_id_key: str
) -> None:
    """Its own orders, another client's, one that nobody made, and those that could not be stored."""
    mint = OrderIds(order_id_key).mint
    mine, failed, theirs = [await store_order(database_url, PRODUCT, client=it) for it in ("shop", "shop", "rival")]
    await decide_order(database_url, failed, PRODUCT, "out_of_stock")
    parked, parked_of_others, foreign, on_its_way = mint(), mint(), str(uuid.uuid4()), mint()
    for order_id, client in ((parked, "shop"), (parked_of_others, "rival")):
        body = f'[{{"id":"{order_id}","client":"{client}"}}]'.encode()
        await park_order(database_url, order_id, "persist", "invalid_data", body)
    ids = [foreign, parked, mine, theirs, on_its_way, failed, parked_of_others]
    for client, sees_all in (("shop", False), ("rival", False), ("ops", True), ("", False)):
        alone = [await reads.get(f"{ORDERS}/{it}", client, sees_all=sees_all) for it in ids]
        several = await reads.get(path_of(ids), client, sees_all=sees_all)
        assert several.json() == [it.json() for it in alone if it.status_code == 200]
        assert {it.status_code for it in alone} == {200, 404}
    assert statuses(await reads.get(path_of(ids), "shop")) == ["FAILED", "PENDING", "PENDING", "FAILED", "PENDING"]


async def test_p4_a_wait_ends_with_the_last_verdict(reads: Reads, database_url: str) -> None:
    ids = [await store_order(database_url, PRODUCT) for _ in range(3)]
    await decide_order(database_url, ids[0], PRODUCT)
    waiting = asyncio.create_task(reads.get(path_of(ids, "30")))
    await eventually(lambda: reads.orders.selected == 1)
    await decide_order(database_url, ids[1], PRODUCT, "out_of_stock")
    await notify(database_url)
    await eventually(lambda: sum(it.done() for those in reads.verdicts._waiting.values() for it in those) == 2)
    assert not waiting.done()
    await decide_order(database_url, ids[2], PRODUCT)
    await notify(database_url)
    assert statuses(await waiting) == ["PROCESSED", "FAILED", "PROCESSED"]
    assert reads.orders.selected == 1, "the verdicts came without another look"
    assert reads.verdicts._waiting == {}


async def test_after_the_wait_the_answer_is_what_is(reads: Reads, database_url: str) -> None:
    ids = [await store_order(database_url, PRODUCT) for _ in range(2)]
    waiting = asyncio.create_task(reads.get(path_of(ids, "2")))
    await eventually(lambda: reads.orders.selected == 1)
    await decide_order(database_url, ids[0], PRODUCT)
    await notify(database_url)
    assert statuses(await waiting) == ["PROCESSED", "PENDING"]


async def test_orders_of_others_are_waited_for_as_if_nothing_were_known_of_them(
    reads: Reads, database_url: str, order_id_key: str
) -> None:
    parked = OrderIds(order_id_key).mint()
    mine = await store_order(database_url, PRODUCT, client="rival")
    await decide_order(database_url, mine, PRODUCT)
    await park_order(database_url, parked, "persist", "invalid_data", f'[{{"id":"{parked}","client":"shop"}}]'.encode())
    began = time.monotonic()
    assert statuses(await reads.get(path_of([parked, mine], "0.4"), "rival")) == ["PENDING", "PROCESSED"]
    assert time.monotonic() - began >= 0.4


async def test_who_waited_is_answered_by_the_rights_that_its_key_has_then(
    environment: dict[str, str], database_url: str
) -> None:
    key = ChangingKey("admin", OPS)
    async with order_reads(environment, timeout_s=30, guard=key) as reads:
        ids = [await store_order(database_url, PRODUCT, client=it) for it in ("admin", "shop")]
        waiting = asyncio.create_task(reads.get(path_of(ids, "30"), "admin"))
        await eventually(lambda: reads.orders.selected == 1)
        key.becomes("admin")
        for order_id in ids:
            await decide_order(database_url, order_id, PRODUCT)
        await notify(database_url)
        assert [it["id"] for it in (await waiting).json()] == ids[:1]


async def test_p6_without_postgresql_orders_of_ours_are_pending_and_others_are_503(
    environment: dict[str, str], database_url: str, order_id_key: str
) -> None:
    ours = [OrderIds(order_id_key).mint() for _ in range(2)]
    async with (
        proxy_to(database_url) as proxy,
        order_reads({**environment, "DATABASE_URL": proxy.url(database_url)}, timeout_s=2) as reads,
    ):
        proxy.go_away()
        response = await reads.get(path_of(ours))
        assert (statuses(response), response.headers["order-status-source"]) == (["PENDING", "PENDING"], "id")
        check_problem(await reads.get(path_of([*ours, str(uuid.uuid4())])), 503, "store-unavailable")
        proxy.come_back()


async def test_p8_a_request_takes_a_place_for_each_id_and_the_places_of_nobody_else(
    reads: Reads, database_url: str
) -> None:
    """`max_orders` of these reads is 100; a client that holds some may have what it leaves free."""
    shares = reads.orders._reads._shares
    shares.take("greedy", 40)
    ids = [str(uuid.uuid4()) for _ in range(31)]
    check_problem(await reads.get(path_of(ids), "greedy"), 503, "overloaded")
    assert (await reads.get(path_of(ids), "modest")).json() == []
    shares.give_back("greedy", 40)
    assert (await reads.get(path_of(ids), "greedy")).json() == []
    assert shares._taken == 0


async def test_p8_a_request_for_which_there_is_no_room_to_wait_is_answered_at_once(
    environment: dict[str, str], database_url: str
) -> None:
    ids = [await store_order(database_url, PRODUCT, client="shop") for _ in range(3)]
    async with order_reads(environment, max_waiting=2, timeout_s=30) as reads:
        assert statuses(await reads.get(path_of(ids, "30"), "shop")) == ["PENDING"] * 3
        assert reads.verdicts._waiting == {}


async def test_a_hundred_orders_are_one_answer_and_more_are_refused(reads: Reads, database_url: str) -> None:
    ids = [await store_order(database_url, PRODUCT) for _ in range(100)]
    response = await reads.get(path_of(ids))
    assert [it["id"] for it in response.json()] == ids
    refused = await reads.get(path_of([*ids, ids[0]]))
    check_problem(refused, 422, "invalid-value")
    assert refused.json()["errors"] == [{"detail": "id comes 101 times, and may come 100 times.", "parameter": "id"}]
