"""ingest_api reports the backlog in orders even while a worker is frozen; `status` and `verify` show it too."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping

import pytest

from stack.home.directory import ROOT
from stack.run.backlog import NO_ANSWER, Waiting, sentence, waiting_at, why_not_ready
from tests.support.brokers.broker import plain_channel
from tests.support.services.ingest import Ingest, ingesting, insert_product
from tests.support.services.processes import Service, service_process
from tests.support.time.conditions import eventually

ACCEPTED, CREATED = "orders.accepted", "orders.created"
ORDERS = 5_000


@pytest.fixture
async def ingest(environment: Mapping[str, str]) -> AsyncIterator[Ingest]:
    async with ingesting(environment) as it:
        yield it


@pytest.fixture
async def laptop(database_url: str) -> str:
    """A product with more stock than the tests order."""
    return await insert_product(database_url, qty=1_000_000)


async def order_many(ingest: Ingest, product_id: str, orders: int) -> None:
    """Order in bulk requests, several at a time."""
    bulk = [{"productId": product_id, "quantity": 1}] * 500
    answers = await asyncio.gather(
        *(ingest.client.post("/api/v1/orders/bulk", json=bulk) for _ in range(orders // 500))
    )
    assert {it.status_code for it in answers} == {202}


async def waits(ingest: Ingest, queue: str) -> float:
    return await ingest.metric(f'headrace_backlog_orders{{queue="{queue}"}}')


async def verify(environment: Mapping[str, str], ingest: Ingest, *arguments: str) -> tuple[int | None, str]:
    """The output of a command for the stack that the environment names."""
    named = {"INGEST_API_URL": ingest.service.url, "PRODUCT_API_URL": ingest.service.url}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "stack", "verify", *arguments),
        cwd=ROOT,
        env={**os.environ, "HEADRACE_HOME": "/nonexistent", **environment, **named},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def freeze(service: Service) -> None:
    service.process.send_signal(signal.SIGSTOP)


async def test_with_a_frozen_persist_worker_every_accepted_order_is_told_of(
    environment: dict[str, str], ingest: Ingest, laptop: str
) -> None:
    async with (
        service_process("persist_worker", environment) as worker,
        service_process("product_consumer", environment),
    ):
        await order_many(ingest, laptop, 1_000)
        await eventually(lambda: is_settled(ingest))
        freeze(worker)
        await eventually(lambda: worker.is_stopped)
        await order_many(ingest, laptop, ORDERS)
        await eventually(lambda: has(ingest, ACCEPTED, ORDERS))
        why = await asyncio.to_thread(why_not_ready, worker.url, None)
        assert why == NO_ANSWER
        waiting = await asyncio.to_thread(waiting_at, ingest.service.url, None)
        assert waiting is not None
        assert [(it.queue, it.orders) for it in waiting] == [(ACCEPTED, ORDERS), (CREATED, 0)]
        assert sentence(waiting[0], {"persist_worker": why}).startswith(
            "5,000 orders in 10 messages wait for their row,"
        )
        assert sentence(waiting[0], {"persist_worker": why}).endswith("s; persist_worker does not answer within 2 s")
        code, output = await verify(environment, ingest)
        assert "\n5,000 orders accepted and not stored yet, the oldest for" in output
        assert code == 0, "not for longer than the lag"
        code, output = await verify(environment, ingest, "--lag", "0.1", "--json")
        report = json.loads(output)
        assert (code, report["checks"]["not_stored"], report["waiting"][ACCEPTED]["orders"]) == (1, 1, ORDERS)
        assert report["offenders"][0]["id"] == ACCEPTED
        worker.process.send_signal(signal.SIGCONT)
        await eventually(lambda: is_settled(ingest))
    code, output = await verify(environment, ingest)
    assert (code, "accepted and not stored" in output) == (0, False)


async def has(ingest: Ingest, queue: str, orders: int) -> bool:
    return await waits(ingest, queue) == orders


async def is_settled(ingest: Ingest) -> bool:
    return await waits(ingest, ACCEPTED) == await waits(ingest, CREATED) == 0


async def test_what_waits_for_its_verdict_is_told_of_beside(
    environment: dict[str, str], ingest: Ingest, laptop: str
) -> None:
    async with service_process("persist_worker", environment):
        await order_many(ingest, laptop, 1_000)
        await eventually(lambda: has(ingest, CREATED, 1_000))
        assert await waits(ingest, ACCEPTED) == 0
    async with service_process("product_consumer", environment):
        await eventually(lambda: is_settled(ingest))


async def test_accepted_orders_that_somebody_purges_are_told_of_for_as_long_as_the_process_lives(
    environment: dict[str, str], ingest: Ingest, laptop: str
) -> None:
    await order_many(ingest, laptop, 500)
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await (await channel.get_queue(ACCEPTED, ensure=False)).purge()
    async with service_process("persist_worker", environment), service_process("product_consumer", environment):
        await order_many(ingest, laptop, 1_000)
        await eventually(lambda: has(ingest, ACCEPTED, 500))
        await eventually(lambda: has(ingest, CREATED, 0))
        code, output = await verify(environment, ingest, "--lag", "0.1")
        assert code == 1
        assert output.startswith(f"not_stored  {ACCEPTED}  expected a row within 0.1 s; found 500 orders without one")


async def test_a_part_that_is_not_ready_says_why(environment: dict[str, str]) -> None:
    nowhere = {**environment, "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d"}
    async with service_process("persist_worker", nowhere, ready="/livez") as worker:

        async def says_why() -> bool:
            return "refused" in await asyncio.to_thread(why_not_ready, worker.url, None)

        await eventually(says_why)
    assert await asyncio.to_thread(why_not_ready, worker.url, None) != ""


def test_nothing_waits() -> None:
    assert sentence(Waiting(ACCEPTED, 0, 0, 0.0), {}) == "no order waits for its row"
