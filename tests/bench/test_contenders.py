"""A contender that does less than it says would win: each must store what it accepts, decide it and move stock."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryFile

import httpx
import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.contender import Contender, Part
from benchmarks.contenders.headrace import NOOP
from database.connection import Connection
from tests.support.services.ingest import insert_product
from tests.support.services.processes import free_port
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

_ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 30.0
_UNKNOWN = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"

# The first of these tests may have to wait until .venv-bench is installed.
pytestmark = pytest.mark.timeout(600)
storing = pytest.mark.parametrize("contender", [it for it in CONTENDERS if it.stores], ids=lambda it: it.name)


@storing
async def test_an_accepted_order_is_stored_decided_and_takes_stock(
    contender: Contender, environment: dict[str, str], bench_python: Path
) -> None:
    product_id = await insert_product(environment["DATABASE_URL"], "12.50", 50)
    async with (
        connected(environment["DATABASE_URL"]) as database,
        _running(contender, environment, bench_python) as client,
    ):
        ids = [await _order(client, contender, product_id, quantity) for quantity in (3, 4)]

        await eventually(lambda: _count(database, "stock_ledger", 2), _START_TIMEOUT_S)

        orders = await database.fetch(
            "SELECT id::text, o.product_id::text, o.quantity, unit_price, total_price, outcome, l.quantity AS decided"
            " FROM orders o JOIN stock_ledger l ON l.order_id = id AND l.product_id = o.product_id ORDER BY o.quantity"
        )
        assert [tuple(row) for row in orders] == [
            (ids[0], product_id, 3, Decimal("12.50"), Decimal("37.50"), "PROCESSED", 3),
            (ids[1], product_id, 4, Decimal("12.50"), Decimal("50.00"), "PROCESSED", 4),
        ]
        assert await database.fetchval("SELECT qty FROM products WHERE id = $1", product_id) == 43


@storing
async def test_bad_input_is_refused_and_leaves_nothing_behind(
    contender: Contender, environment: dict[str, str], bench_python: Path
) -> None:
    product_id = await insert_product(environment["DATABASE_URL"], "12.50", 50)
    async with (
        connected(environment["DATABASE_URL"]) as database,
        _running(contender, environment, bench_python) as client,
    ):
        bodies: list[object] = [
            {"productId": _UNKNOWN, "quantity": 1},
            {"productId": "laptop", "quantity": 1},
            {"productId": product_id, "quantity": 0},
            {"productId": product_id, "quantity": 1_000_001},
            {"productId": product_id, "quantity": 1.5},
            {"productId": product_id, "quantity": "1"},
            {"productId": product_id},
            {"quantity": 1},
            [],
        ]
        for body in bodies:
            answer = await client.post(contender.path, json=body)
            assert 400 <= answer.status_code < 500, (body, answer.text)
        malformed = await client.post(
            contender.path, content=b'{"productId"', headers={"Content-Type": "application/json"}
        )
        assert 400 <= malformed.status_code < 500

        # What was accepted before this one would have been decided before it.
        await _order(client, contender, product_id, 1)
        await eventually(lambda: _count(database, "stock_ledger", 1), _START_TIMEOUT_S)
        assert await database.fetchval("SELECT count(*) FROM orders") == 1


async def test_the_endpoint_that_does_nothing_answers_as_much_as_one_that_stores(
    environment: dict[str, str], bench_python: Path
) -> None:
    product_id = await insert_product(environment["DATABASE_URL"], "12.50", 50)
    tuned = next(it for it in CONTENDERS if it.name == "sync-tuned")
    body = {"productId": product_id, "quantity": 2}
    async with _running(tuned, environment, bench_python) as client:
        stored = await client.post(tuned.path, json=body)
    async with _running(NOOP, environment, bench_python) as client:
        nothing = await client.post(NOOP.path, json=body)

    assert nothing.status_code == 202
    assert nothing.json().keys() == stored.json().keys()
    assert abs(len(nothing.content) - len(stored.content)) <= 4


async def _order(client: httpx.AsyncClient, contender: Contender, product_id: str, quantity: int) -> str:
    answer = await client.post(contender.path, json={"productId": product_id, "quantity": quantity})
    assert answer.is_success, answer.text
    order_id: str = answer.json()["id"]
    return order_id


async def _count(database: Connection, table: str, wanted: int) -> bool:
    return bool(await database.fetchval(f"SELECT count(*) = $1 FROM {table}", wanted))


@asynccontextmanager
async def _running(
    contender: Contender, environment: Mapping[str, str], python: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """All parts of a contender, and a client of the first. None is left afterwards."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(_process(part, environment, python)) for part in contender.parts]
        yield await stack.enter_async_context(httpx.AsyncClient(base_url=urls[0], timeout=30))


@asynccontextmanager
async def _process(part: Part, environment: Mapping[str, str], python: Path) -> AsyncIterator[str]:
    port = free_port()
    variables = {**os.environ, **environment, **part.environment}
    if part.port_variable:
        variables[part.port_variable] = str(port)
    with TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            python,
            "-m",
            part.module,
            *part.arguments,
            cwd=_ROOT,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            if part.ready:
                await _until_ready(f"http://127.0.0.1:{port}{part.ready}", process, log.fileno())
            yield f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # Celery's and taskiq's workers have children
            await process.wait()


async def _until_ready(url: str, process: asyncio.subprocess.Process, log: int) -> None:
    async with httpx.AsyncClient(timeout=2) as client:

        async def is_ready() -> bool:
            assert process.returncode is None, os.pread(log, 10_000, 0).decode()
            try:
                return (await client.get(url)).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(is_ready, _START_TIMEOUT_S)
