"""GET an order with ?wait=: verdicts, deadlines, how seldom PostgreSQL is asked, and who leaves or stops meanwhile."""

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from decimal import Decimal

import httpx
import pytest

from database.channels import VERDICTS
from ingest_api.reads import verdicts
from ingest_api.reads.stored_orders import DECIDED
from pipeline.contract import topology
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import Order
from tests.support.brokers.broker import plain_channel, send_orders
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import order
from tests.support.scenes.changing_key import ChangingKey
from tests.support.scenes.order_reads import (
    AT_ONCE_S,
    Reads,
    are_waiting,
    decide_order,
    notify,
    order_reads,
    park_order,
    store_order,
    took,
)
from tests.support.services.ingest import ORDERS, Ingest, check_problem, ingesting
from tests.support.services.workers import Worker, add_product, connected, persist_worker, product_consumer
from tests.support.time.conditions import eventually
from web.access.clients import OPS

_A = "01a20267-97ad-7199-a6a6-540000cf26ec"
_NOTIFIED, _POLLED = (f'headrace_verdict_rounds_total{{because="{it}"}}' for it in ("notification", "poll"))


@pytest.fixture
async def reads(environment: dict[str, str]) -> AsyncIterator[Reads]:
    async with order_reads(environment) as it:
        yield it


@pytest.fixture
def never_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing but a notification can bring a verdict."""
    monkeypatch.setattr(verdicts, "_POLL_EVERY_S", 3600.0)


# ── verdicts


async def test_p4_a_verdict_is_answered_as_soon_as_it_is_there(ingest: Ingest, database_url: str, laptop: str) -> None:
    """From the moment of the 202: nothing is stored yet when the wait begins."""
    order_id = (await ingest.order(laptop)).json()["id"]
    waiting = asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=30"))
    await are_waiting(ingest)
    await store_order(database_url, laptop, order_id=order_id)
    await notify(database_url)
    await decide_order(database_url, order_id, laptop, "out_of_stock")
    await notify(database_url)
    status, took_s = await took(waiting)
    assert (status, waiting.result().json()["reason"]) == ("FAILED", "out_of_stock")
    assert waiting.result().json() == (await ingest.get(f"{ORDERS}/{order_id}")).json()
    assert waiting.result().headers["order-status-source"] == "store"
    assert took_s < AT_ONCE_S
    await are_waiting(ingest, 0)


async def test_p4_a_notification_is_enough(never_polls: None, reads: Reads, database_url: str) -> None:
    order_id = await store_order(database_url, _A)
    for_ten = [asyncio.create_task(reads.get(f"{ORDERS}/{order_id}?wait=30")) for _ in range(10)]
    await eventually(lambda: reads.orders.selected == 10)
    await decide_order(database_url, order_id, _A)
    await notify(database_url)
    for it in for_ten:
        status, took_s = await took(it)
        assert (status, took_s < AT_ONCE_S) == ("PROCESSED", True)


async def test_p4_a_lost_notification_costs_a_second(reads: Reads, database_url: str) -> None:
    order_id = await store_order(database_url, _A)
    notified, polled = (sample("headrace_verdict_rounds_total", because=it) for it in ("notification", "poll"))
    async with grown(notified, polled) as growth:
        waiting = asyncio.create_task(reads.get(f"{ORDERS}/{order_id}?wait=30"))
        await eventually(lambda: reads.orders.selected == 1)
        await decide_order(database_url, order_id, _A)
        status, took_s = await took(waiting)
    assert (status, took_s < AT_ONCE_S) == ("PROCESSED", True)
    assert growth()[0] == 0
    assert growth()[1] >= 1


async def test_who_waits_for_what_is_decided_does_not_wait(ingest: Ingest, database_url: str, laptop: str) -> None:
    decided, parked = await store_order(database_url, laptop), str(uuid.uuid4())
    await decide_order(database_url, decided, laptop)
    await park_order(database_url, parked, "persist", "invalid_data")
    for order_id, expected in ((decided, "PROCESSED"), (parked, "FAILED")):
        status, took_s = await took(asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=30")))
        assert status == expected
        assert took_s < AT_ONCE_S


async def test_after_the_wait_the_answer_is_what_is(ingest: Ingest, database_url: str, laptop: str) -> None:
    """With all that is stored by then."""
    order_id = (await ingest.order(laptop)).json()["id"]
    waiting = asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=0.5"))
    await are_waiting(ingest)
    await store_order(database_url, laptop, order_id=order_id)
    began = time.monotonic()
    response = await waiting
    assert time.monotonic() - began < 1.5
    assert (response.status_code, response.json()["status"], response.json()["quantity"]) == (200, "PENDING", 2)


async def test_a_wait_lasts_as_long_as_it_says(ingest: Ingest, laptop: str) -> None:
    order_id = (await ingest.order(laptop)).json()["id"]
    for wait in ("0.3", "1"):
        status, took_s = await took(asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait={wait}")))
        assert status == "PENDING"
        assert float(wait) <= took_s < float(wait) + 1


async def test_head_waits_as_get_does(ingest: Ingest, database_url: str, laptop: str) -> None:
    order_id = await store_order(database_url, laptop)
    waiting = asyncio.create_task(ingest.client.head(f"{ORDERS}/{order_id}?wait=30"))
    await are_waiting(ingest)
    await decide_order(database_url, order_id, laptop)
    await notify(database_url)
    response = await asyncio.wait_for(waiting, 5)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["order-status-source"] == "store"


async def test_who_waited_is_answered_by_the_rights_that_its_key_has_then(
    environment: dict[str, str], database_url: str
) -> None:
    key = ChangingKey("shop")
    async with order_reads(environment, guard=key) as reads:

        async def answer(change: Callable[[], None]) -> httpx.Response:
            """To a wait during which the key changes and the order of `shop` is decided."""
            key.becomes("shop")
            order_id, seen = await store_order(database_url, _A, client="shop"), reads.orders.selected
            waiting = asyncio.create_task(reads.get(f"{ORDERS}/{order_id}?wait=30"))
            await eventually(lambda: reads.orders.selected > seen)
            change()
            await decide_order(database_url, order_id, _A)
            await notify(database_url)
            return await asyncio.wait_for(waiting, AT_ONCE_S)

        assert (await answer(lambda: key.becomes("shop"))).json()["status"] == "PROCESSED"
        assert (await answer(lambda: key.becomes("support", OPS))).json()["status"] == "PROCESSED"
        check_problem(await answer(lambda: key.becomes("rival")), 404, "not-found")
        check_problem(await answer(key.revoke), 401, "unauthenticated")


async def test_an_order_that_is_none_is_not_waited_for(ingest: Ingest) -> None:
    began = time.monotonic()
    check_problem(await ingest.get(f"{ORDERS}/{uuid.uuid4()}?wait=30"), 404, "not-found")
    check_problem(await ingest.get(f"{ORDERS}/x?wait=30"), 404, "not-found")
    for wait in ("31", "-1", "nan", "", "soon"):
        response = await ingest.get(f"{ORDERS}/{uuid.uuid4()}?wait={wait}")
        check_problem(response, 422, "invalid-value")
        assert response.json()["errors"][0]["parameter"] == "wait"
    assert time.monotonic() - began < 2


async def test_the_verdict_that_falls_between_the_look_and_the_wait_is_not_missed(
    never_polls: None, reads: Reads, database_url: str
) -> None:
    order_id = await store_order(database_url, _A)
    held = reads.orders.hold()
    waiting = asyncio.create_task(reads.get(f"{ORDERS}/{order_id}?wait=30"))
    await eventually(lambda: reads.orders.selected == 1)  # it has seen PENDING, and does not know yet
    await decide_order(database_url, order_id, _A)
    await notify(database_url)
    await eventually(lambda: all(it.done() for those in reads.verdicts._waiting.values() for it in those))
    held.set()
    status, took_s = await took(waiting)
    assert status == "PROCESSED"
    assert took_s < AT_ONCE_S


# ── who says that there is something to ask for


async def _send(environment: dict[str, str], key: str, *orders: Order) -> None:
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await send_orders(channel, topology.ORDERS_EXCHANGE, key, *orders)


async def _taken(worker: Worker, environment: dict[str, str], key: str, *orders: Order) -> list[str]:
    """What is said on the channel while a worker takes a batch of these."""
    said: list[str] = []
    async with connected(environment["DATABASE_URL"]) as connection:
        await connection.add_listener(VERDICTS, lambda *it: said.append(str(it[3])))
        await _send(environment, key, *orders)
        assert await worker.run_once() == len(orders)
        await connection.execute("SELECT 1")  # what was said before this has come by now
        await asyncio.sleep(0)
    return said


async def test_product_consumer_notifies_once_a_batch_and_names_nothing(environment: dict[str, str]) -> None:
    orders = [order(_A) for _ in range(20)]
    async with connected(environment["DATABASE_URL"]) as connection:
        await add_product(connection, _A, 10)
    async with product_consumer(environment) as worker:
        assert await _taken(worker, environment, topology.ORDER_CREATED, *orders) == [""]
        # Whoever decided them may have died before it told anybody.
        assert await _taken(worker, environment, topology.ORDER_CREATED, *orders) == [""]


async def test_p4_what_persist_worker_parks_is_told_to_who_waits_for_it(environment: dict[str, str]) -> None:
    good, bad = order(_A), order(_A, 0, total_price=Decimal(0))
    async with persist_worker(environment) as worker:
        assert await _taken(worker, environment, topology.ORDER_ACCEPTED, good) == []
        assert await _taken(worker, environment, topology.ORDER_ACCEPTED, order(_A), bad) == [""]


async def test_p4_through_both_workers_in_one_wait(
    environment: dict[str, str], ingest: Ingest, database_url: str, laptop: str
) -> None:
    order_id = (await ingest.order(laptop)).json()["id"]
    waiting = asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=30"))
    await are_waiting(ingest)
    async with persist_worker(environment) as stores, product_consumer(environment) as decides:
        assert await stores.run_once() == 1
        await decides.run_once()
        status, took_s = await took(waiting)
    assert (status, took_s < AT_ONCE_S) == ("PROCESSED", True)
    assert [it["status"] for it in (await ingest.get(f"{ORDERS}/product/{laptop}")).json()] == ["PROCESSED"]


async def test_a_consumer_that_cannot_notify_settles_its_batch_all_the_same(environment: dict[str, str]) -> None:
    async with connected(environment["DATABASE_URL"]) as connection:
        await add_product(connection, _A, 10)
    async with product_consumer(environment) as worker:
        busted = worker.service._cache.bust_or_defer

        async def cut_off(versions: object) -> bool:
            assert worker.database._connection is not None
            worker.database._connection.terminate()
            worker.database._url = "postgresql://nobody@127.0.0.1:1/nothing"
            return bool(await busted(versions))

        worker.service._cache.bust_or_defer = cut_off
        url = worker.database._url
        await _send(environment, topology.ORDER_CREATED, order(_A))
        assert await worker.run_once() == 1
        worker.database._url = url


# ── how much it costs


async def test_however_many_wait_postgresql_is_asked_twenty_times_a_second_together(
    environment: dict[str, str], ingest: Ingest, database_url: str, laptop: str
) -> None:
    ids = [await store_order(database_url, laptop) for _ in range(20)]
    waiting = [asyncio.create_task(ingest.get(f"{ORDERS}/{it}?wait=30")) for it in ids for _ in range(4)]
    await are_waiting(ingest, 80)
    before, began = await ingest.metric(_NOTIFIED) + await ingest.metric(_POLLED), time.monotonic()
    async with connected(database_url) as connection:
        asked = 0.0
        while time.monotonic() < began + 1.5 or asked < 10:
            for _ in range(100):
                await connection.execute(f"NOTIFY {VERDICTS}")  # hundreds of batches a second
            asked = await ingest.metric(_NOTIFIED) + await ingest.metric(_POLLED) - before
            assert asked <= 20 * (time.monotonic() - began) + 1
        for it in ids:
            await decide_order(database_url, it, laptop)
        await connection.execute(f"NOTIFY {VERDICTS}")
    answers = [await it for it in waiting]
    assert {it.json()["status"] for it in answers} == {"PROCESSED"}
    assert sorted(it.json()["id"] for it in answers) == sorted(ids * 4)


async def test_while_nobody_waits_nothing_is_asked(ingest: Ingest, database_url: str, laptop: str) -> None:
    for _ in range(50):
        await notify(database_url)
    order_id = (await ingest.order(laptop)).json()["id"]
    await ingest.get(f"{ORDERS}/{order_id}")
    await ingest.get(f"{ORDERS}/{order_id}?wait=0")
    assert await ingest.metric(_POLLED) == 0
    await ingest.get(f"{ORDERS}/{order_id}?wait=1.2")
    assert await ingest.metric(_NOTIFIED) == 0
    polled = await ingest.metric(_POLLED)
    assert 1 <= polled <= 3, "once a second"
    for _ in range(20):
        await notify(database_url)
    assert await ingest.metric(_NOTIFIED) == 0
    assert await ingest.metric(_POLLED) == polled


async def test_p8_past_the_limit_the_answer_is_what_is_at_once(
    environment: dict[str, str], database_url: str, laptop: str
) -> None:
    async with ingesting(environment, max_waiting_reads=2) as ingest:
        order_id = await store_order(database_url, laptop)
        waiting = [asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=30")) for _ in range(2)]
        await are_waiting(ingest, 2)
        status, took_s = await took(asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=30")))
        assert (status, took_s < AT_ONCE_S) == ("PENDING", True)
        await decide_order(database_url, order_id, laptop)
        await notify(database_url)
        assert [(await it).json()["status"] for it in waiting] == ["PROCESSED"] * 2


async def test_a_question_for_all_who_wait_goes_by_primary_keys(database_url: str) -> None:
    """Ten of them are decided, one is parked, and the others are not: of those, no more is read than that."""
    async with connected(database_url) as connection:
        await connection.execute(
            """
            INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at)
            SELECT gen_random_uuid(), gen_random_uuid(), 1, 1, 1, now() FROM generate_series(1, 60000);
            INSERT INTO stock_ledger (order_id, product_id, quantity, outcome)
            SELECT id, product_id, 1, 'PROCESSED' FROM orders LIMIT 50000;
            INSERT INTO dead_letters (order_id, stage, reason, detail, body)
            SELECT gen_random_uuid(), 'persist', 'unreadable', '', n::text::bytea FROM generate_series(1, 500) n;
            ANALYZE orders, stock_ledger, dead_letters
            """
        )
        undecided = "SELECT id FROM orders WHERE NOT EXISTS (SELECT FROM stock_ledger WHERE order_id = id) LIMIT 100"
        queries = undecided, "SELECT order_id FROM stock_ledger LIMIT 10", "SELECT order_id FROM dead_letters LIMIT 1"
        ids = [row[0] for query in queries for row in await connection.fetch(query)]
        assert len(await connection.fetch(DECIDED, ids)) == 11
        plan = "\n".join([row[0] for row in await connection.fetch(f"EXPLAIN (ANALYZE) {DECIDED}", ids)])
    for table in ("orders", "stock_ledger"):
        assert f"{table}_pkey" in plan
        assert f"Seq Scan on {table}" not in plan


async def test_the_metrics_tell_who_waits_and_what_is_asked(never_polls: None, reads: Reads, database_url: str) -> None:
    order_id = await store_order(database_url, _A)
    notified = sample("headrace_verdict_rounds_total", because="notification")
    hit, miss = (sample("headrace_order_list_reads_total", result=it) for it in ("hit", "miss"))
    async with grown(notified, hit, miss) as growth:
        waiting = asyncio.create_task(reads.get(f"{ORDERS}/{order_id}?wait=30"))
        await eventually(lambda: reads.orders.selected == 1)
        await decide_order(database_url, order_id, _A)
        await notify(database_url)
        await waiting
        for _ in range(3):
            await reads.get(f"{ORDERS}/product/{_A}")
    assert growth() == [1, 2, 1]


# ── who leaves, and who stops


async def test_a_client_that_leaves_waits_no_more(ingest: Ingest, laptop: str) -> None:
    order_id = (await ingest.order(laptop)).json()["id"]
    port = int(ingest.service.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {ORDERS}/{order_id}?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await are_waiting(ingest)
    writer.close()
    began = time.monotonic()
    await are_waiting(ingest, 0)
    assert time.monotonic() - began < 2
    assert '"level":"error"' not in ingest.service.log()


async def test_nothing_more_is_looked_up_for_a_client_that_left(reads: Reads, order_id_key: str) -> None:
    path = f"{ORDERS}/{OrderIds(order_id_key).mint()}"
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"wait=30", "headers": []}
    messages: list[dict[str, object]] = [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
    ]
    answered: list[object] = []

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(message: object) -> None:
        answered.append(message)

    await reads.app(scope, receive, send)
    assert reads.orders.selected == 1
    assert not reads.verdicts._waiting
    assert len(answered) == 2  # for nobody: 499


async def test_p9_a_stop_answers_who_waits_at_once(ingest: Ingest, database_url: str, laptop: str) -> None:
    order_id = await store_order(database_url, laptop)
    waiting = [asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=30")) for _ in range(20)]
    await are_waiting(ingest, 20)
    began = time.monotonic()
    ingest.service.process.send_signal(signal.SIGTERM)
    for it in waiting:
        assert (await it).json()["status"] == "PENDING"
    assert time.monotonic() - began < 2
    assert await ingest.service.ended() == 0
    assert time.monotonic() - began < 4
    assert '"level":"error"' not in ingest.service.log()
