"""headrace_dead_letters_waiting falls when letters are replayed or discarded, so an alert on it clears."""

from collections.abc import AsyncIterator

import httpx
import pytest

from database.connection import Connection
from persist_worker import waiting_letters as module
from persist_worker.dead_letter_consumer import PART
from persist_worker.worker import PUBLISHER
from pipeline.process.health import Health
from pipeline.process.metrics import REGISTRY
from tests.support.brokers.broker import running_task
from tests.support.brokers.dead_letters import make_dead_letter_consumer
from tests.support.data.orders import new_product_id, order
from tests.support.services.processes import service_process
from tests.support.services.workers import connected, park
from tests.support.time.conditions import eventually

A = new_product_id()
WAITING = "headrace_dead_letters_waiting"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it


def waiting() -> dict[tuple[str, str], float]:
    return {
        (it.labels["stage"], it.labels["reason"]): it.value
        for family in REGISTRY.collect()
        for it in family.samples
        if it.name == WAITING
    }


async def test_letters_count_while_they_wait_and_not_once_they_are_replayed_or_discarded(
    environment: dict[str, str], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "rest_s", lambda took_s: 0.02)
    await park(connection, order(A))
    await park(connection, order(A))
    await park(connection, order(A), stage="stock", reason="unreadable")
    await park(connection, order(A), replayed=True)
    consumer, _ = make_dead_letter_consumer(environment, Health("persist_worker", PART, PUBLISHER))
    async with running_task(consumer.run()):
        await eventually(lambda: waiting() == {("persist", "invalid_data"): 2, ("stock", "unreadable"): 1})
        await connection.execute("UPDATE dead_letters SET replayed_at = now() WHERE stage = 'stock'")
        await eventually(lambda: waiting() == {("persist", "invalid_data"): 2})
        await connection.execute(
            "UPDATE dead_letters SET discarded_at = now(), discard_reason = 'a test' WHERE replayed_at IS NULL"
        )
        await eventually(lambda: waiting() == {})


async def test_the_count_ends_at_its_bound(
    environment: dict[str, str], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT", 2)
    for _ in range(3):
        await park(connection, order(A))
    consumer, _ = make_dead_letter_consumer(environment, Health("persist_worker", PART, PUBLISHER))
    async with running_task(consumer.run()):
        await eventually(lambda: waiting() == {("persist", "invalid_data"): 2})


async def test_p12_no_part_of_a_healthy_persist_worker_counts_as_away(environment: dict[str, str]) -> None:
    """The dead-letter consumer's connection too, because the alert PartIsAway looks at every part."""
    async with (
        service_process("persist_worker", environment) as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):

        async def away() -> list[str] | None:
            lines = (await client.get("/metrics")).text.splitlines()
            parts = [it for it in lines if it.startswith("headrace_part_up{")]
            return parts if len(parts) == 5 and all(it.endswith(" 1.0") for it in parts) else None

        assert await eventually(away)
