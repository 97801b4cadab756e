"""P5: at most one order for each Idempotency-Key, although processes die, Redis forgets and answers are lost."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from ingest_api.idempotency.records import name_of
from tests.support.clients.keyed import KEY, keyed, ttl_s_above
from tests.support.data.redis_names import NAMESPACE
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.ingest import ORDERS, Ingest, check_problem, ingesting, insert_product
from tests.support.services.processes import service_process
from tests.support.services.workers import connected, persist_worker, stored_orders
from tests.support.time.conditions import eventually


def replays(ingest: Ingest, product_id: str) -> Callable[[], Coroutine[Any, Any, httpx.Response | None]]:
    async def answer() -> httpx.Response | None:
        response = await keyed(ingest, product_id)
        return response if "idempotency-replayed" in response.headers else None

    return answer


# ── with Redis: the same answer again


async def test_a_retry_gets_the_same_answer_and_orders_nothing(ingest: Ingest, laptop: str) -> None:
    first = await keyed(ingest, laptop, 2)
    assert first.status_code == 202
    assert "idempotency-replayed" not in first.headers

    async def replayed() -> httpx.Response | None:
        again = await keyed(ingest, laptop.upper(), 2, f'"{KEY}"')
        return None if again.status_code == 409 else again

    again = await eventually(replayed)
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["location"] == first.headers["location"] == f"{ORDERS}/{first.json()['id']}"
    assert len(await ingest.queued_orders()) == 1
    assert await ingest.metric('headrace_idempotent_requests_total{result="replayed"}') == 1


async def test_an_answer_is_remembered_for_a_day(ingest: Ingest, laptop: str, redis: Redis) -> None:
    await keyed(ingest, laptop)
    ttl = await eventually(lambda: ttl_s_above(redis, name_of(NAMESPACE, "", KEY), 60))
    assert 24 * 3600 - 60 < ttl <= 24 * 3600


async def test_a_replay_needs_neither_stock_nor_broker(environment: dict[str, str], broker: Proxy, laptop: str) -> None:
    async with ingesting(environment) as ingest:
        first = await keyed(ingest, laptop)
        await eventually(replays(ingest, laptop))
        broker.go_away()
        again = await keyed(ingest, laptop)
        assert (again.status_code, again.content) == (202, first.content)


async def test_a_key_with_another_order_is_refused(ingest: Ingest, laptop: str, database_url: str) -> None:
    await keyed(ingest, laptop, 2)
    check_problem(await keyed(ingest, laptop, 3), 422, "key-reused")
    check_problem(await keyed(ingest, await insert_product(database_url), 2), 422, "key-reused")
    assert len(await ingest.queued_orders()) == 1


async def test_while_the_first_is_in_flight_others_are_told_to_wait(
    environment: dict[str, str], broker: Proxy, laptop: str
) -> None:
    async with ingesting(environment) as ingest:
        # With a key: so it is known from then on that Redis has forgotten nothing.
        assert (await keyed(ingest, laptop, key="the-first")).status_code == 202
        broker.hold()
        first = asyncio.create_task(keyed(ingest, laptop))
        await eventually(lambda: _one_in_flight(ingest))
        waiting = await keyed(ingest, laptop)
        check_problem(waiting, 409, "request-in-flight")
        assert int(waiting.headers["retry-after"]) > 0
        check_problem(await keyed(ingest, laptop, 2), 422, "key-reused")
        broker.release()
        assert (await first).status_code == 202
        assert (await eventually(replays(ingest, laptop))).content == (await first).content


async def _one_in_flight(ingest: Ingest) -> bool:
    return await ingest.metric("headrace_orders_in_flight") == 1


async def test_fifty_at_once_with_one_key_are_one_order(ingest: Ingest, laptop: str) -> None:
    assert len(await ids_of_fifty(ingest, laptop)) == 1
    assert len(await ingest.queued_orders()) == 1


async def ids_of_fifty(ingest: Ingest, product_id: str) -> set[str]:
    """Send fifty requests at once with one key. Returns the ids of the 202s; the other answers are 409."""
    answers = await asyncio.gather(*(keyed(ingest, product_id) for _ in range(50)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    return {answer.json()["id"] for answer in answers if answer.status_code == 202}


async def test_a_refused_request_frees_its_key(ingest: Ingest, laptop: str, database_url: str) -> None:
    check_problem(await keyed(ingest, str(uuid.uuid4())), 422, "unknown-product")
    check_problem(await keyed(ingest, await insert_product(database_url, qty=0)), 409, "out-of-stock")
    check_problem(await keyed(ingest, laptop, 0), 422, "invalid-value")
    assert (await keyed(ingest, laptop)).status_code == 202


async def test_keys_that_are_none_are_refused_and_order_nothing(ingest: Ingest, laptop: str) -> None:
    for bad in ("", "a b", "x" * 256, '""'):
        check_problem(await keyed(ingest, laptop, key=bad), 400, "malformed")
    twice = [("Content-Type", "application/json"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    body = f'{{"productId": "{laptop}", "quantity": 1}}'
    check_problem(await ingest.client.post(ORDERS, content=body, headers=twice), 400, "malformed")
    assert await ingest.queued_orders() == []


async def test_a_request_without_a_key_asks_redis_nothing(ingest: Ingest, laptop: str, redis: Redis) -> None:
    await ingest.order(laptop)
    began, calls = time.monotonic(), await _evals(redis)
    for _ in range(20):
        await ingest.order(laptop)
    looks = 1 + (time.monotonic() - began)  # at how far its memory can be believed, once a second
    assert await _evals(redis) - calls <= looks


async def _evals(redis: Redis) -> int:
    calls: int = (await redis.info("commandstats")).get("cmdstat_eval", {}).get("calls", 0)
    return calls


async def test_a_replay_has_the_status_that_the_first_answer_had(environment: dict[str, str], laptop: str) -> None:
    async with ingesting(environment, accepted_status=201) as ingest:
        assert (await keyed(ingest, laptop)).status_code == 201
        assert await ingest.service.stop() == 0
    async with ingesting(environment) as ingest:
        again = await keyed(ingest, laptop)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")


@pytest.mark.alone
async def test_a_redis_that_hangs_costs_a_keyed_request_a_second_and_then_nothing(
    environment: dict[str, str], laptop: str
) -> None:
    """Only retries are answered at once. New orders wait until they are stored, see test_retries_truth."""
    async with proxy_to(environment["REDIS_URL"]) as between:
        environment["REDIS_URL"] = between.url(environment["REDIS_URL"])
        async with ingesting(environment) as ingest:
            keys = [f"{it}" for it in range(20)]
            await asyncio.gather(*(_seconds_of(keyed(ingest, laptop, key=key)) for key in keys))
            between.hold()
            for number in range(3):
                took = await asyncio.gather(*(_seconds_of(keyed(ingest, laptop, key=key)) for key in keys))
                assert max(took) < 1.5
                assert number == 0 or sorted(took)[-2] < 0.8  # one of them tries Redis again, once a second


async def _seconds_of(answer: Coroutine[Any, Any, httpx.Response]) -> float:
    began = time.monotonic()
    assert (await answer).status_code == 202
    return time.monotonic() - began


# ── without: still one order


@pytest.mark.parametrize("how", ["emptied", "away from the start", "lost"])
async def test_p5_without_redis_it_is_202_and_the_same_order(
    environment: dict[str, str], laptop: str, redis: Redis, how: str
) -> None:
    async with proxy_to(environment["REDIS_URL"]) as between:
        environment["REDIS_URL"] = between.url(environment["REDIS_URL"])
        if how == "away from the start":
            between.go_away()
        # A forgotten key waits for the store; see test_retries_truth for a store that is behind.
        async with service_process("persist_worker", environment), ingesting(environment) as ingest:
            first = await keyed(ingest, laptop)
            if how == "emptied":
                await eventually(lambda: ttl_s_above(redis, name_of(NAMESPACE, "", KEY), 60))
                await redis.flushall()
            elif how == "lost":
                between.go_away()
            again = await keyed(ingest, laptop)
            assert (first.status_code, again.status_code) == (202, 202)
            assert first.content == again.content
            behind_it: str = (await ingest.order(laptop)).json()["id"]
    # The queue may look empty because this worker has fetched its messages. A later order shows when all is stored.
    async with persist_worker(environment) as worker, connected(environment["DATABASE_URL"]) as connection:
        while behind_it not in await stored_orders(connection):
            await worker.run_once()
        assert set(await stored_orders(connection)) == {first.json()["id"], behind_it}


async def test_p5_fifty_at_once_are_the_same_order_when_redis_was_emptied_and_by_another_process(
    environment: dict[str, str], laptop: str, redis: Redis
) -> None:
    ids, others = set[str](), set[str]()
    for _ in range(2):
        async with ingesting(environment) as ingest:
            ids |= await ids_of_fifty(ingest, laptop)
            await redis.flushall()
            ids |= await ids_of_fifty(ingest, laptop)
            behind_them: str = (await ingest.order(laptop)).json()["id"]
            others.add(behind_them)
    assert len(ids) == 1
    async with persist_worker(environment) as worker, connected(environment["DATABASE_URL"]) as connection:
        while behind_them not in await stored_orders(connection):
            await worker.run_once()
        assert set(await stored_orders(connection)) == ids | others


async def test_p5_a_key_outlives_the_process(environment: dict[str, str], laptop: str) -> None:
    async with ingesting(environment) as ingest:
        first = await keyed(ingest, laptop)
        assert await ingest.service.stop() == 0  # and by then the answer is kept
    async with ingesting(environment) as ingest:
        again = await keyed(ingest, laptop)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.content == first.content


async def test_the_key_of_a_request_that_died_is_free_again(
    environment: dict[str, str], broker: Proxy, laptop: str
) -> None:
    async with ingesting(environment) as ingest:
        # With a key: so it is known from then on that Redis has forgotten nothing.
        assert (await keyed(ingest, laptop, key="the-first")).status_code == 202
        broker.hold()
        dying = asyncio.create_task(keyed(ingest, laptop))
        await eventually(lambda: _one_in_flight(ingest))
        ingest.service.process.kill()
        with pytest.raises(httpx.HTTPError):
            await dying
        broker.come_back()
    async with ingesting(environment, idempotency_in_flight_s=6) as ingest:
        check_problem(await keyed(ingest, laptop), 409, "request-in-flight")

        async def accepted() -> bool:
            return (await keyed(ingest, laptop)).status_code == 202

        await eventually(accepted, timeout_s=10)


async def test_the_hash_of_the_request_is_stored_with_the_order(
    environment: dict[str, str], ingest: Ingest, laptop: str
) -> None:
    answer = await keyed(ingest, laptop)
    assert "request_hash" not in answer.json()
    async with persist_worker(environment) as worker, connected(environment["DATABASE_URL"]) as connection:
        await worker.run_once()
        assert len(await connection.fetchval("SELECT request_hash FROM orders")) == 16
