"""Who may cancel an order: its own client, and `ops` those of all."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from database.connection import Connection
from persist_worker.write import prepare
from pipeline.contract.api_keys import new_token
from tests.support.data.api_keys import bearer, key_of, write_keys
from tests.support.data.orders import order
from tests.support.services.ingest import ORDERS, Ingest, check_problem
from tests.support.services.processes import service_process
from tests.support.services.workers import cancel_consumer, connected, settle

_SCOPES = {
    "shop": ("orders:write", "orders:read"),
    "rival": ("orders:write", "orders:read"),
    "reader": ("orders:read",),
    "ops": ("orders:write", "ops"),
}
Guarded: TypeAlias = tuple[Ingest, dict[str, dict[str, str]]]
"""ingest_api with API keys, and each client's headers."""


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        yield it


@pytest.fixture
async def guarded(environment: dict[str, str], tmp_path: Path) -> AsyncIterator[Guarded]:
    tokens = {name: new_token() for name in _SCOPES}
    write_keys(tmp_path / "keys.json", *(key_of(token, name, _SCOPES[name]) for name, token in tokens.items()))
    environment["API_KEYS_FILE"] = str(tmp_path / "keys.json")
    # Not `ingesting`: without a key, /health does not say whether product events are heard. These tests need none.
    async with (
        service_process("ingest_api", environment) as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as client,
    ):
        yield Ingest(service, client, environment), {name: bearer(token) for name, token in tokens.items()}


async def test_a_client_cancels_its_own_orders_and_ops_those_of_all(
    guarded: Guarded, laptop: str, connection: Connection
) -> None:
    ingest, as_ = guarded
    await settle(connection, [it := order(laptop, client="shop")])
    check_problem(await ingest.cancel(it.id, **as_["rival"]), 404, "not-found")
    check_problem(await ingest.cancel(it.id, **as_["reader"]), 403, "forbidden")
    assert (await ingest.cancel(it.id, **as_["shop"])).status_code == 202
    assert (await ingest.cancel(it.id, **as_["ops"])).status_code == 202
    assert [(one.client, one.sees_all) for one in await ingest.cancel_requests()] == [("shop", False), ("ops", True)]


async def test_an_order_that_ops_has_cancelled_shows_its_client_the_reason_of_ops(
    guarded: Guarded, laptop: str, connection: Connection
) -> None:
    ingest, as_ = guarded
    await settle(connection, [it := order(laptop, 2, client="shop")])
    assert (await ingest.cancel(it.id, {"reason": "recalled"}, **as_["ops"])).status_code == 202
    async with cancel_consumer(ingest.environment) as worker:
        await worker.run_once()
    shown = (await ingest.client.get(f"{ORDERS}/{it.id}", headers=as_["shop"])).json()
    assert (shown["status"], shown["cancel_reason"]) == ("CANCELLED", "recalled")
    again = await ingest.cancel(it.id, **as_["shop"])
    assert (again.status_code, again.json()) == (200, shown)
    check_problem(await ingest.cancel(it.id, **as_["rival"]), 404, "not-found")


async def test_an_order_that_is_not_stored_is_cancelled_by_its_client_alone_though_all_are_accepted(
    guarded: Guarded, laptop: str, connection: Connection
) -> None:
    ingest, as_ = guarded
    order_id = (await ingest.order(laptop, **as_["shop"])).json()["id"]
    response = await ingest.cancel(order_id, **as_["rival"])
    assert (response.status_code, response.json()["status"]) == (202, "PENDING"), "it is told nothing"
    async with cancel_consumer(ingest.environment) as worker:
        await worker.run_once()
        await settle(connection, [order(laptop, id=order_id, client="shop")])
    assert (await ingest.client.get(f"{ORDERS}/{order_id}", headers=as_["shop"])).json()["status"] == "PROCESSED"
