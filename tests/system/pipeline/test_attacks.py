"""P8: clients that want more than their share. What an honest client gets meanwhile is told at the end of the run.

Bounds of time hold on a machine without other work. On one that was several times slower before the attack, nothing can
be said of them, and the line says so; what is held in memory, and what is true, does not depend on it.
"""

import asyncio
import itertools
from collections.abc import Callable

import httpx
import msgspec
import pytest

from tests.support.brokers.broker import running_task
from tests.support.clients.attackers import attacking
from tests.support.clients.attacks import Figures, honest
from tests.support.clients.hostile import order_of
from tests.support.clients.load import loading
from tests.support.services.deployment import Deployment
from tests.support.time.conditions import eventually

# Deep, because bounds of time need the whole machine: ./headrace test system -- -k attacks
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.deep]

Tell = Callable[[str], None]

QTY = 10**9


def check(figures: Figures) -> None:
    """Assert what holds under every attack."""
    assert figures.grown_mb <= 60
    if not figures.is_void:
        assert figures.p99_s <= 0.25
        assert figures.slowest_probe_s <= 0.3
        assert figures.probes_failed == 0


async def test_p8_bulks_of_products_that_do_not_exist(deployment: Deployment, tell: Tell) -> None:
    """150 bulks at once, each with 1,000 new ids."""
    product_id = await deployment.create_product(QTY)
    ingest_api = deployment.services["ingest_api"]
    orders = itertools.repeat(order_of(product_id))
    async with (
        honest(ingest_api, orders) as client,
        attacking("unknown_bulks", ingest_api.url, connections=150, seconds=8) as attack,
    ):
        pass
    figures = client.figures
    tell(figures.line(f"150 bulks of 1,000 unknown products at once, {dict(attack.answers)}"))
    assert figures.is_void or set(figures.statuses) == {202}
    check(figures)


async def test_p8_lists_of_the_largest_size_on_400_connections(deployment: Deployment, tell: Tell) -> None:
    """Honest orders are accepted meanwhile, and honest reads of a PROCESSED order never say that it is PENDING."""
    product_id = await deployment.create_product(QTY)

    async def is_calm() -> bool:
        """Wait until the effects of the previous attack are over."""
        return (await deployment.order(product_id)).status_code == 202

    await eventually(is_calm)
    async with loading(deployment.url("ingest_api"), [product_id], orders=500) as load:
        assert (await load.all()).by_status() == {202: 500}
    order_id = (await deployment.order(product_id)).json()["id"]
    await eventually(lambda: deployment.verdict(order_id))
    ingest_api = deployment.services["ingest_api"]
    read = f"GET /api/v1/orders/{order_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    path = f"/api/v1/orders/product/{product_id}?limit=499"
    async with (
        honest(ingest_api, itertools.cycle([read, order_of(product_id)])) as client,
        attacking("gets", ingest_api.url, path, connections=400, seconds=8) as attack,
    ):
        pass
    figures = client.figures
    tell(figures.line(f"400 connections that list 499 orders, {dict(attack.answers)}"))
    reads = [it for it in client.answers if it.status == 200]
    assert {msgspec.json.decode(it.body)["status"] for it in reads} == {"PROCESSED"}
    assert figures.is_void or set(figures.statuses) == {200, 202}
    check(figures)


async def test_p8_ten_thousand_half_open_connections_and_500_new_ones_a_second(
    deployment: Deployment, tell: Tell
) -> None:
    """The attackers take all their places, and none that an honest client or a probe needs."""
    product_id = await deployment.create_product(QTY)
    ingest_api = deployment.services["ingest_api"]
    answered: list[int] = []
    async with (
        honest(ingest_api, itertools.repeat(order_of(product_id))) as client,
        running_task(_probe(ingest_api.health_url, answered)),
        attacking("half_open", ingest_api.url, "500", connections=10_000, seconds=4) as attack,
    ):
        pass
    figures, metrics = client.figures, await ingest_api.metrics()
    room = metrics.get('headrace_connections_closed_total{reason="room"}', 0)
    tell(
        figures.line(
            f"10,000 half-open connections, then 500 new ones a second, {dict(attack.answers)}, {room:.0f} made room"
        )
    )
    assert room > 1_000 or attack.answers["opened"] < 6_000, "a machine that is too slow to attack"
    assert len(answered) > 20
    assert set(answered) == {200}, "the health listener"
    assert figures.is_void or set(figures.statuses) == {202}
    check(figures)


async def _probe(health_url: str, answered: list[int]) -> None:
    """Probe /livez ten times a second, as an orchestrator does, until cancelled."""
    async with httpx.AsyncClient(base_url=health_url, timeout=5) as client:
        while True:
            answered.append((await client.get("/livez", headers={"Connection": "close"})).status_code)
            await asyncio.sleep(0.1)
