"""The reason of a cancellation on real servers: it comes back unchanged by every way, and nothing writes it down."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest

from database.connection import Connection
from ingest_api.documents.event_operations import EVENTS
from persist_worker.write import prepare, write
from pipeline.contract.orders import AnyOrder, join_orders
from product_consumer.ledger import record
from tests.support.brokers.dead_letters import headrace_dead
from tests.support.clients.event_stream import streaming
from tests.support.data.orders import basket, order
from tests.support.data.texts import nasty_reasons
from tests.support.scenes.cancelling import request_raw
from tests.support.services.ingest import ORDERS, Ingest, ingesting, insert_product
from tests.support.services.processes import Service, service_process
from tests.support.services.relay import relaying
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

COUNT = 60
SECRET = "sesame-4711"
_REASONS = "SELECT order_id::text, reason FROM cancellations WHERE outcome IN ('before_verdict', 'returned')"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        yield it


@pytest.fixture
async def product(database_url: str) -> str:
    return await insert_product(database_url, "12.50", 10_000)


async def stored(connection: Connection, product_id: str) -> list[AnyOrder]:
    """Orders and baskets; half of them are processed."""
    them: list[AnyOrder] = [
        order(product_id, at_ms=at) if at % 3 else basket((product_id, 1), at_ms=at) for at in range(COUNT)
    ]
    await write(connection, them, [])
    await record(connection, them[::2], [])
    return them


def told(orders: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {it["id"]: it["cancel_reason"] for it in orders if it["status"] == "CANCELLED"}


async def test_every_reason_is_answered_listed_and_told_as_it_was_given(
    ingest: Ingest, environment: dict[str, str], connection: Connection, product: str
) -> None:
    them = await stored(connection, product)
    given = dict(zip((it.id for it in them), nasty_reasons(COUNT), strict=True))
    async with service_process("product_consumer", environment):
        for order_id, reason in given.items():
            assert (await ingest.cancel(order_id, {"reason": reason})).is_success
        await eventually(lambda: _are_cancelled(connection, COUNT), 30)
    assert dict(map(tuple, await connection.fetch(_REASONS))) == given
    assert told([(await ingest.get(f"{ORDERS}/{it}")).json() for it in given]) == given
    assert told((await ingest.get(f"{ORDERS}?{'&'.join(f'id={it}' for it in given)}")).json()) == given
    for listed in (f"{ORDERS}/product/{product}?limit=100", f"{ORDERS}?status=CANCELLED&limit=100"):
        assert told((await ingest.get(listed)).json()) == given
    pages = (await ingest.get(f"{EVENTS}?limit=1000&wait=10")).json()
    assert told(it["order"] for it in pages) == given
    async with streaming(ingest.client, EVENTS) as stream:
        await stream.has(len(pages))
        assert told(it["order"] for it in stream.events) == given


async def _are_cancelled(connection: Connection, count: int) -> bool:
    return len(await connection.fetch(_REASONS)) == count


# ── the client's own


async def refusals(ingest: Ingest, order_id: str) -> None:
    """Cancellations that are refused, for each reason that has to do with the reason."""
    for wrong in ({"reason": SECRET * 20}, {"reason": f"{SECRET}\0"}, {"reason": [SECRET]}, {"reason": {SECRET: 1}}):
        answer = await ingest.cancel(order_id, wrong)
        assert answer.status_code == 422
        assert SECRET not in answer.text


async def test_a_reason_is_in_no_problem_no_log_no_metric_and_no_list_of_dead_letters(
    environment: dict[str, str], connection: Connection, product: str
) -> None:
    environment["LOG_LEVEL"] = "debug"
    first, *others = (await stored(connection, product))[:4]
    async with (
        ingesting(environment) as ingest,
        service_process("product_consumer", environment) as consumer,
        relaying(environment) as relay,
    ):
        await refusals(ingest, first.id)
        await request_raw(environment, json.dumps([{"order_id": first.id, "reason": SECRET * 20}]).encode())
        await request_raw(environment, join_orders([json.dumps({"reason": SECRET}).encode()]), schema=9)
        for it in (first, *others):
            assert (await ingest.cancel(it.id, {"reason": SECRET})).is_success
        await eventually(lambda: _are_cancelled(connection, 4), 30)
        await eventually(lambda: _are_parked(connection, 2))
        written = [await _written_by(it) for it in (ingest.service, consumer, relay)]
    details = [row[0] for row in await connection.fetch("SELECT detail FROM dead_letters")]
    lists = [(await headrace_dead(environment, "list", *more))[0] for more in ([], ["--json"])]
    for text in (*written, *details, *lists):
        assert SECRET not in text


async def _are_parked(connection: Connection, count: int) -> bool:
    return bool(await connection.fetchval("SELECT count(*) FROM dead_letters") == count)


async def _written_by(service: Service) -> str:
    """The process's log and its metrics."""
    return service.log() + json.dumps(await service.metrics())
