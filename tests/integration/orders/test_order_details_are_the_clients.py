"""reference and metadata belong to their client: nobody else reads them, and nothing of ours writes them down."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from database.connection import Connection
from ingest_api.documents.event_operations import EVENTS
from pipeline.contract.api_keys import new_token
from tests.support.brokers.dead_letters import headrace_dead
from tests.support.clients.event_stream import streaming
from tests.support.data.api_keys import bearer, key_of, write_keys
from tests.support.services.ingest import ORDERS, Ingest, check_problem, ingesting
from tests.support.services.processes import Service, service_process
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

SECRET = "sesame-4711"
DETAILS = {"reference": SECRET, "metadata": {f"key-{SECRET}": f"value-{SECRET}"}}
_READS = ("orders:write", "orders:read")


@pytest.fixture
async def keyed(environment: dict[str, str], tmp_path: Path) -> AsyncIterator[tuple[Ingest, dict[str, dict[str, str]]]]:
    """ingest_api with API keys, and each client's headers."""
    tokens = {name: new_token() for name in ("shop", "rival", "ops")}
    scopes = {"shop": _READS, "rival": _READS, "ops": (*_READS, "ops")}
    write_keys(tmp_path / "keys.json", *(key_of(token, name, scopes[name]) for name, token in tokens.items()))
    environment["API_KEYS_FILE"] = str(tmp_path / "keys.json")
    async with ingesting(environment, ready="/livez") as ingest:
        yield ingest, {name: bearer(token) for name, token in tokens.items()}


async def decided(ingest: Ingest, headers: dict[str, str], product_id: str) -> dict[str, Any]:
    """An order with details, once it is decided."""
    body = {"productId": product_id, "quantity": 1, **DETAILS}

    async def accepted() -> httpx.Response | None:  # the service is up, and may not be connected yet
        answer = await ingest.client.post(ORDERS, json=body, headers=headers)
        return answer if answer.status_code == 202 else None

    answer = await eventually(accepted)
    found = (await ingest.client.get(f"{ORDERS}/{answer.json()['id']}?wait=15", headers=headers)).json()
    assert found["status"] == "PROCESSED"
    return dict(found)


async def test_another_client_never_sees_them(
    environment: dict[str, str], keyed: tuple[Ingest, dict[str, dict[str, str]]], laptop: str
) -> None:
    ingest, as_client = keyed
    async with service_process("persist_worker", environment), service_process("product_consumer", environment):
        order = await decided(ingest, as_client["shop"], laptop)
        other = await decided(ingest, as_client["rival"], laptop)
    path, listed = f"{ORDERS}/{order['id']}", f"{ORDERS}/product/{laptop}"
    check_problem(await ingest.client.get(path, headers=as_client["rival"]), 404, "not-found")
    for client, ids in {"shop": {order["id"]}, "rival": {other["id"]}, "ops": {order["id"], other["id"]}}.items():
        headers = as_client[client]
        rows = (await ingest.client.get(listed, headers=headers)).json()
        pages = (await ingest.client.get(f"{EVENTS}?wait=10", headers=headers)).json()
        async with streaming(ingest.client, EVENTS, **headers) as stream:
            await stream.has(len(ids))
        for found in (rows, [it["order"] for it in pages], [it["order"] for it in stream.events]):
            assert {it["id"] for it in found} == ids
            assert all({name: it[name] for name in DETAILS} == DETAILS for it in found)


@pytest.fixture
async def unstorable(database_url: str) -> AsyncIterator[Connection]:
    """PostgreSQL refuses the details, with an error whose detail quotes the whole row."""
    async with connected(database_url) as connection:
        await connection.execute(f"ALTER TABLE orders ADD CONSTRAINT no_sesame CHECK (reference <> '{SECRET}')")
        yield connection


async def refusals(ingest: Ingest, product_id: str) -> list[httpx.Response]:
    """Requests that are refused, for each reason that has to do with the details."""
    wrong: list[dict[str, object]] = [
        {"reference": SECRET * 10},
        {"reference": f"{SECRET}\0"},
        {"metadata": {SECRET: 1}},
        {"metadata": {SECRET * 10: "x"}},
        {"metadata": [SECRET]},
    ]
    order = {"productId": product_id, "quantity": 1}
    single = [await ingest.client.post(ORDERS, json=order | it) for it in wrong]
    bulk = await ingest.client.post(f"{ORDERS}/bulk", json=[order | it for it in wrong])
    missing = {"productId": "01a20261-0000-7b6e-9f0a-3d5c1e8a7b42", "quantity": 1, **DETAILS}
    return [*single, bulk, await ingest.client.post(ORDERS, json=missing)]


async def test_they_are_in_no_problem_no_log_no_metric_and_no_list_of_dead_letters(
    environment: dict[str, str], unstorable: Connection, laptop: str
) -> None:
    environment["LOG_LEVEL"] = "debug"
    async with ingesting(environment) as ingest, service_process("persist_worker", environment) as worker:
        for refusal in await refusals(ingest, laptop):
            assert refusal.status_code == 422
            assert SECRET not in refusal.text
        order = (await ingest.client.post(ORDERS, json={"productId": laptop, "quantity": 1, **DETAILS})).json()

        async def is_parked() -> bool:
            return bool(await unstorable.fetchval("SELECT count(*) FROM dead_letters WHERE reason = 'invalid_data'"))

        await eventually(is_parked)
        shown = (await ingest.get(f"{ORDERS}/{order['id']}")).json()
        assert (shown["status"], shown["reason"]) == ("FAILED", "invalid_data")
        written = [await _written_by(it) for it in (ingest.service, worker)]
    assert all(order["id"] in it or "ingest_api" in it for it in written)
    (detail,) = [row[0] for row in await unstorable.fetch("SELECT detail FROM dead_letters")]
    lists = [(await headrace_dead(environment, "list", *more))[0] for more in ([], ["--json"])]
    for text in (*written, detail, json.dumps(shown), *lists):
        assert SECRET not in text


async def _written_by(service: Service) -> str:
    """The process's log and its metrics."""
    return service.log() + json.dumps(await service.metrics())
