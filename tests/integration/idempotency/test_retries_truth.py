"""P5: every answer for one key names the stored price and time, whatever failed in between."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent
from tests.support.clients.keyed import KEY, keyed
from tests.support.faults.faults import proxy_to
from tests.support.services.ingest import ORDERS, Ingest, check_problem, execute, ingesting
from tests.support.services.processes import service_process
from tests.support.services.workers import connected, persist_worker
from tests.support.time.conditions import eventually

BULK = f"{ORDERS}/bulk"


async def change_price(ingest: Ingest, product_id: str, price: int, version: int = 2) -> None:
    """Change the price in PostgreSQL and in ingest_api's catalogue."""
    url = ingest.environment["DATABASE_URL"]
    await execute(
        url, "UPDATE products SET price = $2, version = $3 WHERE id = $1", product_id, Decimal(price), version
    )
    await ingest.tell(topology.PRODUCT_UPDATED, ProductEvent(product_id, version, Decimal(price), 50))

    async def is_known() -> bool:
        return Decimal(str((await ingest.order(product_id)).json()["unit_price"])) == price

    await eventually(is_known)


async def stored(environment: dict[str, str], order_id: str) -> tuple[Decimal, str]:
    """The row's price and time, in the form of an answer."""
    async with connected(environment["DATABASE_URL"]) as connection:

        async def row() -> Any:
            return await connection.fetchrow("SELECT unit_price, accepted_at FROM orders WHERE id = $1", order_id)

        price, at = await eventually(row)
    return price, at.isoformat().replace("+00:00", "Z")


def said(answer: httpx.Response | dict[str, Any]) -> tuple[Decimal, str]:
    order = answer.json() if isinstance(answer, httpx.Response) else answer
    return Decimal(str(order["unit_price"])).quantize(Decimal("0.01")), order["created_at"]


@pytest.mark.parametrize("how", ["emptied", "emptied, by another process", "expired", "away"])
async def test_p5_a_retry_is_told_what_is_stored_although_the_price_has_changed(
    environment: dict[str, str], laptop: str, redis: Redis, how: str
) -> None:
    async with proxy_to(environment["REDIS_URL"]) as between, service_process("persist_worker", environment):
        environment["REDIS_URL"] = between.url(environment["REDIS_URL"])
        async with ingesting(environment) as ingest, ingesting(environment) as other:
            first = await keyed(ingest, laptop, 2)
            assert first.status_code == 202
            row = await stored(environment, first.json()["id"])
            await change_price(ingest, laptop, 25)
            if how == "away":
                between.go_away()
            elif how == "expired":
                async for name in redis.scan_iter("*claim:*"):
                    await redis.delete(name)
            else:
                await redis.flushall()
            again = await keyed(other if "another" in how else ingest, laptop, 2)
            assert again.status_code == 202
            assert said(again) == said(first) == row
            assert again.headers["idempotency-replayed"] == "true"
            assert said(await keyed(ingest, laptop, 2, key="another"))[0] == 25


async def test_p5_a_bulk_retry_is_told_what_is_stored_although_prices_have_changed(
    environment: dict[str, str], laptop: str, redis: Redis
) -> None:
    items = [{"productId": laptop, "quantity": quantity} for quantity in (1, 0, 2)]
    headers = {"Idempotency-Key": KEY}
    async with service_process("persist_worker", environment), ingesting(environment) as ingest:
        first = await ingest.client.post(BULK, json=items, headers=headers)
        for place in (0, 2):
            await stored(environment, first.json()[place]["id"])
        await change_price(ingest, laptop, 25)
        await redis.flushall()
        again = await ingest.client.post(BULK, json=items, headers=headers)
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotency-replayed"] == "true"


async def test_p5_while_its_order_is_on_its_way_a_retry_that_nobody_remembers_is_told_that_nobody_knows(
    environment: dict[str, str], laptop: str, redis: Redis
) -> None:
    """The order is accepted and not stored. Redis and the dead process have forgotten it, and the price has changed."""
    async with AsyncExitStack() as stack:
        async with ingesting(environment) as ingest:
            assert (await keyed(ingest, laptop, key="first")).status_code == 202
            worker = await stack.enter_async_context(service_process("persist_worker", environment))
            worker.process.send_signal(signal.SIGSTOP)
            first = await keyed(ingest, laptop, 2)
            assert first.status_code == 202
            assert await ingest.service.stop() == 0
        await redis.flushall()
        async with ingesting(environment, idempotency_stored_within_s=0.5) as ingest:
            await change_price(ingest, laptop, 25)
            behind = await keyed(ingest, laptop, 2)
            check_problem(behind, 503, "outcome-unknown")
            assert "the database has not stored it in time" in behind.json()["detail"]
            assert int(behind.headers["retry-after"]) >= 1
            worker.process.send_signal(signal.SIGCONT)

            async def accepted() -> httpx.Response | None:
                answer = await keyed(ingest, laptop, 2)
                return answer if answer.status_code == 202 else None

            again = await eventually(accepted)
            assert said(again) == said(first) == await stored(environment, first.json()["id"])


async def test_p5_a_process_puts_back_what_it_knows_before_another_is_asked(
    environment: dict[str, str], laptop: str, redis: Redis
) -> None:
    """No worker runs, so nothing is stored meanwhile."""
    async with ingesting(environment) as ingest, ingesting(environment) as other:
        first = await keyed(ingest, laptop, 2)
        await change_price(other, laptop, 25)
        await redis.flushall()
        again = await keyed(ingest, laptop, 2)  # at once
        assert (again.status_code, again.content) == (202, first.content)

        async def is_put_back() -> bool:
            return [name async for name in redis.scan_iter("*claim:*")] != []

        await eventually(is_put_back)
        again = await keyed(other, laptop, 2)
        assert (again.status_code, again.content) == (202, first.content)


async def test_p5_after_an_unknown_outcome_exactly_the_same_order_is_published_again(
    environment: dict[str, str], laptop: str
) -> None:
    async with proxy_to(environment["AMQP_URL"]) as broker:
        environment["AMQP_URL"] = broker.url(environment["AMQP_URL"])
        async with ingesting(environment, confirm_timeout_s=1.5) as ingest:
            # With a key: so it is known from then on that Redis has forgotten nothing.
            assert (await keyed(ingest, laptop, key="the-first")).status_code == 202
            broker.hold()
            check_problem(await keyed(ingest, laptop, 2), 503, "outcome-unknown")
            broker.come_back()

            async def is_ready() -> bool:
                return (await ingest.get("/readyz")).status_code == 200 and await ingest.part("product events") == "ok"

            await eventually(is_ready)
            await change_price(ingest, laptop, 25)
            again = await keyed(ingest, laptop, 2)
            assert said(again)[0] == 1500
            sent = [json.loads(it) for it in await ingest.queued_orders()]
            assert {said(it) for it in sent if it["id"] == again.json()["id"]} == {said(again)}


async def test_p5_a_parked_order_is_what_a_retry_is_told(
    environment: dict[str, str], laptop: str, redis: Redis
) -> None:
    async with ingesting(environment) as ingest:
        first = await keyed(ingest, laptop, 2)
        (body,) = [it.body for it in await ingest.queued()]
        letter = "INSERT INTO dead_letters (order_id, stage, reason, detail, body) VALUES ($1, 'persist', 'x', 'x', $2)"
        await execute(environment["DATABASE_URL"], letter, first.json()["id"], body)
        await change_price(ingest, laptop, 25)
        assert await ingest.service.stop() == 0
    await redis.flushall()
    async with ingesting(environment) as ingest:
        again = await keyed(ingest, laptop, 2)
    assert (again.status_code, again.content) == (202, first.content)


async def test_p5_without_redis_first_orders_are_accepted_and_told_truly(
    environment: dict[str, str], laptop: str
) -> None:
    async with proxy_to(environment["REDIS_URL"]) as between, service_process("persist_worker", environment):
        between.go_away()
        environment["REDIS_URL"] = between.url(environment["REDIS_URL"])
        async with ingesting(environment) as ingest:
            answers = await asyncio.gather(*(keyed(ingest, laptop, key=f"{number}") for number in range(20)))
            for answer in answers:
                assert answer.status_code == 202
                assert said(answer) == await stored(environment, answer.json()["id"])


async def test_a_fresh_deployment_accepts_keyed_orders_while_postgresql_is_away(
    environment: dict[str, str], laptop: str
) -> None:
    async with proxy_to(environment["DATABASE_URL"]) as database:
        environment["DATABASE_URL"] = database.url(environment["DATABASE_URL"])
        async with ingesting(environment) as ingest:
            assert (await keyed(ingest, laptop)).status_code == 202  # and Redis's memory is known to be complete
            database.go_away()
            assert (await keyed(ingest, laptop, key="another")).status_code == 202
            assert (await keyed(ingest, laptop)).headers["idempotency-replayed"] == "true"


# ── ORDER_ID_KEY


async def test_p5_a_key_that_was_rotated_makes_no_second_order(
    environment: dict[str, str], laptop: str, redis: Redis
) -> None:
    old, new = environment["ORDER_ID_KEY"], "7c" * 32
    async with ingesting(environment) as ingest:
        first, waiting = await keyed(ingest, laptop, 2), await keyed(ingest, laptop, 2, key="not-claimed")
    async with persist_worker(environment) as worker:
        stored_now = await worker.run_once() or 0
        if stored_now < 2:
            await worker.run_once()
    environment["ORDER_ID_KEY"] = f"{new},{old}"
    async with ingesting(environment) as ingest:
        for answer, key in ((first, KEY), (waiting, "not-claimed")):
            assert (await keyed(ingest, laptop, 2, key=key)).content == answer.content
        await redis.flushall()
        assert (await keyed(ingest, laptop, 2)).content == first.content
        assert (await ingest.get(f"{ORDERS}/{first.json()['id']}")).status_code == 200

        async def accepted() -> httpx.Response | None:
            """Accepted once no process can still publish an order from before Redis forgot."""
            answer = await keyed(ingest, laptop, 2, key="a-new-one")
            return answer if answer.status_code == 202 else None

        second = await eventually(accepted, timeout_s=30)
    environment["ORDER_ID_KEY"] = new
    async with ingesting(environment) as ingest:
        again = await keyed(ingest, laptop, 2, key="a-new-one")
        assert (again.status_code, again.content) == (202, second.content), again.text


# ── two deployments on one Redis


async def test_two_deployments_on_one_redis_are_not_told_each_others_orders(
    environment: dict[str, str], laptop: str
) -> None:
    del environment["REDIS_NAMESPACE"]
    another = {**environment, "ORDER_ID_KEY": "7c" * 32}
    async with (
        service_process("persist_worker", environment),
        ingesting(environment) as ingest,
        ingesting(another) as other,
    ):
        first, theirs = await keyed(ingest, laptop), await keyed(other, laptop)
        assert "idempotency-replayed" not in theirs.headers
        assert first.json()["id"] != theirs.json()["id"]


async def test_p5_a_key_that_only_some_processes_know_yet_makes_no_second_order(
    environment: dict[str, str], laptop: str
) -> None:
    """Both restart one after the other with NEW,OLD at once, against the instructions. Nothing is stored meanwhile."""
    old, new = environment["ORDER_ID_KEY"], "7c" * 32
    async with ingesting({**environment, "ORDER_ID_KEY": f"{new},{old}"}) as ahead, ingesting(environment) as behind:
        first = await keyed(ahead, laptop)
        assert first.status_code == 202
        check_problem(await keyed(behind, laptop), 503, "outcome-unknown")
        assert (await keyed(ahead, laptop)).content == first.content
