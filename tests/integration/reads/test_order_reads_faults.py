"""GET an order while PostgreSQL is away, hangs, or has lost who listens for verdicts."""

import asyncio
import time
import uuid

import pytest

from pipeline.contract.order_ids import OrderIds
from tests.support.faults.faults import proxy_to
from tests.support.scenes.ingest_faults import answers
from tests.support.scenes.order_reads import AT_ONCE_S, are_waiting, decide_order, notify, store_order, took
from tests.support.services.ingest import ORDERS, Ingest, check_problem, execute, ingesting
from tests.support.time.conditions import eventually


async def test_p6_without_postgresql_an_id_of_ours_is_pending_and_says_that_nobody_was_asked(
    environment: dict[str, str], database_url: str, laptop: str, order_id_key: str
) -> None:
    async with proxy_to(database_url) as proxy:
        environment["DATABASE_URL"] = proxy.url(database_url)
        async with ingesting(environment) as ingest:
            order_id = (await ingest.order(laptop)).json()["id"]
            path = f"{ORDERS}/{order_id}"
            assert (await ingest.get(path)).headers["order-status-source"] == "store"
            proxy.go_away()
            for method in ("GET", "HEAD"):
                response = await ingest.client.request(method, path)
                assert (response.status_code, response.headers["order-status-source"]) == (200, "id")
            assert (await ingest.get(path)).json() == {"id": order_id, "status": "PENDING", "final": False}
            for other in (f"{ORDERS}/{uuid.uuid4()}", f"{ORDERS}/{uuid.uuid4()}?wait=30", f"{ORDERS}/product/{laptop}"):
                response = await ingest.get(other)
                check_problem(response, 503, "store-unavailable")
                assert response.headers["retry-after"] == "1"
            proxy.come_back()
            await eventually(lambda: _asks_the_store(ingest, path))


async def _asks_the_store(ingest: Ingest, path: str) -> bool:
    return (await ingest.get(path)).headers["order-status-source"] == "store"


async def test_who_waits_while_postgresql_goes_away_waits_on(
    environment: dict[str, str], database_url: str, laptop: str
) -> None:
    """Until it is back with the verdict, or until the time is over."""
    async with proxy_to(database_url) as proxy:
        environment["DATABASE_URL"] = proxy.url(database_url)
        async with ingesting(environment) as ingest:
            first, second, third = [(await ingest.order(laptop)).json()["id"] for _ in range(3)]
            short = asyncio.create_task(ingest.get(f"{ORDERS}/{first}?wait=2"))
            long = asyncio.create_task(ingest.get(f"{ORDERS}/{second}?wait=30"))
            await are_waiting(ingest, 2)
            proxy.go_away()
            late = asyncio.create_task(ingest.get(f"{ORDERS}/{third}?wait=30"))
            response = await short
            assert (response.status_code, response.headers["order-status-source"]) == (200, "id")
            assert response.json() == {"id": first, "status": "PENDING", "final": False}
            await eventually(lambda: _hears_no_verdicts(ingest))
            for order_id in (second, third):
                await store_order(database_url, laptop, order_id=order_id)
                await decide_order(database_url, order_id, laptop)
            proxy.come_back()
            for waiting in (long, late):
                assert (await asyncio.wait_for(waiting, 10)).json()["status"] == "PROCESSED"
            assert await ingest.part("verdicts") == "ok"


async def _hears_no_verdicts(ingest: Ingest) -> bool:
    return await ingest.part("verdicts") != "ok"


async def test_a_listening_connection_that_is_gone_without_a_word_costs_seconds(
    environment: dict[str, str], database_url: str, laptop: str
) -> None:
    """As behind a firewall that forgot it: the next question misses its deadline, and a new connection is made."""
    async with proxy_to(database_url) as proxy:
        environment["DATABASE_URL"] = proxy.url(database_url)
        async with ingesting(environment, database_timeout_s=0.5) as ingest:
            await eventually(answers(ingest, laptop, 202))  # the first connection may take longer than 0.5 s
            order_id = (await ingest.order(laptop)).json()["id"]
            await store_order(database_url, laptop, order_id=order_id)
            waiting = asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=30"))
            await are_waiting(ingest)
            proxy.forget()
            await decide_order(database_url, order_id, laptop)
            await notify(database_url)
            status, took_s = await took(waiting)
            assert status == "PROCESSED"
            assert took_s < 5


async def test_a_listening_connection_that_is_ended_is_made_again(
    ingest: Ingest, database_url: str, laptop: str
) -> None:
    order_id = await store_order(database_url, laptop)
    await execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'ingest_api verdicts'",
    )
    await eventually(lambda: '"event":"not listening for verdicts"' in ingest.service.log())

    async def is_back() -> bool:
        return await ingest.part("verdicts") == "ok"

    await eventually(is_back)
    waiting = asyncio.create_task(ingest.get(f"{ORDERS}/{order_id}?wait=30"))
    await are_waiting(ingest)
    await decide_order(database_url, order_id, laptop)
    await notify(database_url)
    status, took_s = await took(waiting)
    assert (status, took_s < AT_ONCE_S) == ("PROCESSED", True)


@pytest.mark.alone
async def test_p8_a_crowd_is_answered_although_postgresql_hangs(
    environment: dict[str, str], database_url: str, laptop: str
) -> None:
    """The first of them after a deadline, the next ones at once."""
    async with proxy_to(database_url) as proxy:
        environment["DATABASE_URL"] = proxy.url(database_url)
        async with ingesting(environment, database_timeout_s=1) as ingest:
            path = f"{ORDERS}/{(await ingest.order(laptop)).json()['id']}"
            assert (await ingest.get(path)).status_code == 200
            proxy.hold()
            took_s = []
            for _ in range(2):
                began = time.monotonic()
                crowd = await asyncio.gather(*(ingest.get(path) for _ in range(100)))
                took_s.append(time.monotonic() - began)
                assert {it.headers["order-status-source"] for it in crowd} == {"id"}
            assert took_s[0] < 3.5
            began = time.monotonic()
            for _ in range(100):
                await ingest.get(path)
            assert time.monotonic() - began < 6  # one in a second tries, and loses a deadline or two
            proxy.come_back()
            await eventually(lambda: _asks_the_store(ingest, path))


async def test_a_process_that_starts_without_postgresql_answers_who_waits(
    environment: dict[str, str], database_url: str, order_id_key: str
) -> None:
    order_id = OrderIds(order_id_key).mint()
    async with proxy_to(database_url) as proxy:
        proxy.go_away()
        environment["DATABASE_URL"] = proxy.url(database_url)
        async with ingesting(environment) as ingest:
            response = await ingest.get(f"{ORDERS}/{order_id}?wait=0.3")
            assert (response.status_code, response.headers["order-status-source"]) == (200, "id")
            assert await ingest.service.stop() == 0
