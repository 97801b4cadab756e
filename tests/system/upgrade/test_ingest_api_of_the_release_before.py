"""ingest_api of the release before, in front of today's workers and beside today's ingest_api."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.clients.load import accepted_ids, loading
from tests.support.scenes.upgrades import account_for
from tests.support.services.deployment import Deployment, deployed
from tests.support.services.ingest import ORDERS
from tests.support.services.processes import service_process


@pytest.fixture
async def deployment(environment: Mapping[str, str], previous: Path) -> AsyncIterator[Deployment]:
    """Only ingest_api is of the release before."""
    async with deployed(environment, trees={"ingest_api": previous}) as it:
        yield it


async def test_p1_p2_what_an_old_ingest_api_accepts_is_stored_and_decided(deployment: Deployment) -> None:
    products = [await deployment.create_product(1_000_000) for _ in range(3)]
    async with loading(deployment.url("ingest_api"), products, clients=8, orders=400) as load:
        result = await load.all()
    assert result.by_status() == {202: 400}
    counts = await account_for(deployment, accepted_ids(result))
    assert (counts.processed, counts.dead_letters) == (400, 0)


async def test_an_old_ingest_api_refuses_what_it_does_not_know(deployment: Deployment) -> None:
    body = {"productId": await deployment.create_product(10), "quantity": 1}
    async with deployment.client("ingest_api") as client:
        for member in ("reference", "metadata", "lines"):
            answer = await client.post(ORDERS, json={**body, member: None})
            assert answer.status_code == 422
            assert member in answer.text


async def test_p5_a_retry_at_an_ingest_api_of_the_other_release_is_the_same_order(deployment: Deployment) -> None:
    body = {"productId": await deployment.create_product(10), "quantity": 1}
    async with (
        deployment.client("ingest_api") as old,
        service_process("ingest_api", deployment.environment) as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as new,
    ):
        ids = set()
        for number, clients in enumerate(((old, new), (new, old))):
            answers = [await it.post(ORDERS, json=body, headers={"Idempotency-Key": f"k{number}"}) for it in clients]
            assert [it.status_code for it in answers] == [202, 202]
            assert [it.headers.get("Idempotency-Replayed") for it in answers] == [None, "true"]
            assert answers[0].json() == answers[1].json()
            ids.add(answers[0].json()["id"])
    await account_for(deployment, ids)
    assert len(ids) == 2
