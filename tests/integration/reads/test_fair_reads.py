"""P8 for reads: lists, single orders and waits each have places of their own, which clients share."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from database.sessions import reading
from ingest_api.reads import stored_orders
from ingest_api.reads.stored_orders import StoredOrders
from tests.support.data.orders import new_product_id
from tests.support.scenes.order_reads import Reads, decide_order, notify, order_reads, store_order
from tests.support.services.ingest import ORDERS, check_problem
from tests.support.time.conditions import eventually

PRODUCT = new_product_id()


@pytest.fixture
async def reads(environment: dict[str, str]) -> AsyncIterator[Reads]:
    # So long that a machine with other work does not let a turn that waits come too late.
    async with order_reads(environment, max_waiting=4, timeout_s=30) as it:
        yield it


@pytest.fixture
async def processed(database_url: str) -> str:
    """The path of an order that was decided."""
    order_id = await store_order(database_url, PRODUCT)
    await decide_order(database_url, order_id, PRODUCT)
    return f"{ORDERS}/{order_id}"


@asynccontextmanager
async def lists_at_work(orders: StoredOrders) -> AsyncIterator[None]:
    """All connections for lists are taken, by one client."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(orders._turns.turn("reader"))
        yield


async def test_p8_lists_past_their_bound_are_503_and_an_order_is_read_as_it_is(reads: Reads, processed: str) -> None:
    """However many lists wait: that we are busy does not mean that PostgreSQL is away, and makes no order PENDING."""
    path = f"{ORDERS}/product/{PRODUCT}?limit=49"
    async with lists_at_work(reads.orders):
        lists = [asyncio.create_task(reads.get(path)) for _ in range(20)]
        await eventually(lambda: sum(it.done() for it in lists) == 20 - 8)
        for refused in (it.result() for it in lists if it.done()):
            check_problem(refused, 503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        response = await reads.get(processed)
        assert (response.json()["status"], response.headers["order-status-source"]) == ("PROCESSED", "store")
    assert Counter([(await it).status_code for it in lists]) == {200: 8, 503: 12}
    assert not reads.orders._list_breaker.is_away
    assert (await reads.get(path)).status_code == 200


async def test_p8_another_client_lists_its_orders_while_one_asks_without_end(reads: Reads) -> None:
    path = f"{ORDERS}/product/{PRODUCT}?limit=49"
    async with lists_at_work(reads.orders):
        greedy = [asyncio.create_task(reads.get(path, "reader")) for _ in range(20)]
        await eventually(lambda: any(it.done() for it in greedy))
        modest = asyncio.create_task(reads.get(path, "modest"))
        await asyncio.sleep(0)
    assert (await modest).status_code == 200
    assert {(await it).status_code for it in greedy} == {200, 503}


async def test_p8_many_reads_at_once_are_few_questions_and_none_is_told_that_an_order_is_pending(
    reads: Reads, processed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[Any] = []

    def counted(*arguments: Any) -> Any:
        questions.append(arguments)
        return reading(*arguments)

    monkeypatch.setattr(stored_orders, "reading", counted)
    answers = await asyncio.gather(*(reads.get(processed) for _ in range(300)))
    assert {(it.status_code, it.json()["status"]) for it in answers} == {(200, "PROCESSED")}
    assert len(questions) < 60


async def test_p8_more_reads_than_may_wait_are_503_and_open_no_breaker(reads: Reads, processed: str) -> None:
    """`max_orders` of these reads is 100: ids, and each is another."""
    reads.orders._reads._shares.take("others", 100)
    check_problem(await reads.get(processed), 503, "overloaded")
    assert not reads.orders._single_breaker.is_away
    reads.orders._reads._shares.give_back("others", 100)
    assert (await reads.get(processed)).json()["status"] == "PROCESSED"


async def test_p8_an_answer_that_came_while_we_had_no_time_to_look_is_not_taken_for_an_outage(
    environment: dict[str, str], processed: str
) -> None:
    """The process stands still for longer than the deadline, as on a machine that is overloaded or was paused."""
    async with order_reads(environment, timeout_s=0.3) as reads:
        assert (await reads.get(processed)).json()["status"] == "PROCESSED"
        reading = asyncio.create_task(reads.get(processed))
        await eventually(lambda: reads.orders._reads._asking, every_s=0)  # a question takes a millisecond
        await asyncio.sleep(0)
        time.sleep(1)  # noqa: ASYNC251 - that is the fault
        answer = await reading
        assert answer.status_code == 503 or answer.json()["status"] == "PROCESSED"
        assert not reads.orders._single_breaker.is_away
        assert (await reads.get(processed)).json()["status"] == "PROCESSED"


async def test_p8_one_client_cannot_take_the_places_to_wait_of_another(reads: Reads, database_url: str) -> None:
    """Of four places it has two; those past them hear at once how things stand."""
    order_id = await store_order(database_url, PRODUCT, client="greedy")
    another = await store_order(database_url, PRODUCT, client="modest")
    greedy = [asyncio.create_task(_wait(reads, order_id, "greedy")) for _ in range(6)]
    await eventually(lambda: sum(it.done() for it in greedy) == 4)
    modest = asyncio.create_task(_wait(reads, another, "modest"))
    await eventually(lambda: len(reads.verdicts._waiting) == 2)
    assert not modest.done()
    for id_ in (order_id, another):
        await decide_order(database_url, id_, PRODUCT)
    await notify(database_url)
    assert (await modest).json()["status"] == "PROCESSED"
    assert Counter([(await it).json()["status"] for it in greedy]) == {"PENDING": 4, "PROCESSED": 2}


async def _wait(reads: Reads, order_id: str, client: str) -> httpx.Response:
    return await reads.get(f"{ORDERS}/{order_id}?wait=30", client)
