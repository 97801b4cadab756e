"""The audit of a working system under load: it finds nothing wrong, and delays no order."""

import asyncio
import signal

import pytest

from proof.audit_sql import SESSION, Counts, audit
from proof.offenders import Offender
from tests.support.clients.load import loading
from tests.support.services.deployment import Deployment
from tests.support.services.workers import connected

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def audited(deployment: Deployment, lag_s: float) -> tuple[list[Offender], Counts]:
    found: list[Offender] = []
    async with connected(deployment.environment["DATABASE_URL"]) as connection:
        for name, value in SESSION.items():
            await connection.execute(f"SET {name} = '{value}'")
        counts = await audit(connection, lag_s, found.append)
    return found, counts


async def test_an_audit_in_the_middle_of_load_finds_nothing_wrong(deployment: Deployment) -> None:
    """Even while workers are killed, and products sell out and are restocked."""
    products = [await deployment.create_product(qty=qty) for qty in (50, 500, 100_000, 100_000)]
    seen: list[Counts] = []
    async with loading(deployment.url("ingest_api"), products) as load:
        for victim in (None, "product_consumer", None, "persist_worker", None):
            await load.more(400)
            if victim:
                await deployment.stop(victim, signal.SIGKILL)
            await asyncio.gather(restock(deployment, products[0]), see(deployment, seen))
            await deployment.start_missing()
        result = await load.end()
    assert len({counts.orders for counts in seen}) == len(seen), "orders came between the audits"
    assert seen[-1].failed > 0
    await deployment.check_books(result, *products)
    # Every order is decided, so the audit needs no lag.
    found, counts = await audited(deployment, lag_s=0)
    assert (found, counts.pending) == ([], 0)
    assert counts.orders == counts.processed + counts.failed


async def see(deployment: Deployment, seen: list[Counts]) -> None:
    found, counts = await audited(deployment, lag_s=60)
    assert found == []
    seen.append(counts)


async def restock(deployment: Deployment, product_id: str) -> None:
    async with deployment.client("product_api") as client:
        response = await client.post(f"/products/{product_id}/restock", json={"quantity": 5})
    assert response.status_code == 200, response.text
