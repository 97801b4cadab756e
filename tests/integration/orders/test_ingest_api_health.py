"""ingest_api's health pages and metrics: what an orchestrator, an operator and a stranger learn."""

from tests.support.services.ingest import Ingest, ingesting
from tests.support.services.processes import free_port
from tests.support.time.conditions import eventually

PARTS = ["broker", "cancellations", "product events", "verdicts", "event log", "redis"]


SERVERS = {
    "DATABASE_URL": "postgresql://x:x@127.0.0.1:{}/x",
    "AMQP_URL": "amqp://x:x@127.0.0.1:{}/x",
    "REDIS_URL": "redis://127.0.0.1:{}/0",
}


async def all_are_ok(ingest: Ingest) -> bool:
    return set((await ingest.get("/health")).json()["parts"].values()) == {"ok"}


async def test_health_pages_say_how_it_is(ingest: Ingest) -> None:
    assert (await ingest.get("/livez")).json() == {"status": "alive"}
    ready = await ingest.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert list((await ingest.get("/health")).json()["parts"]) == PARTS
    # The broker alone makes a process ready. The other parts may connect later.
    await eventually(lambda: all_are_ok(ingest))
    assert (await ingest.get("/health")).json()["service"] == "ingest_api"


async def test_all_parts_are_named_before_any_is_there(environment: dict[str, str]) -> None:
    nowhere = {name: address.format(free_port()) for name, address in SERVERS.items()}
    async with ingesting({**environment, **nowhere}, ready="/livez") as ingest:
        health = (await ingest.get("/health")).json()
    assert (health["status"], list(health["parts"])) == ("not ready", PARTS)
    assert "ok" not in health["parts"].values()


async def test_a_stranger_learns_from_readyz_whether_it_is_ready_and_nothing_else(environment: dict[str, str]) -> None:
    """Details that quote internal servers are only for operators."""
    nowhere = {name: address.format(free_port()) for name, address in SERVERS.items()}
    async with ingesting({**environment, **nowhere}, ready="/livez") as ingest:
        await eventually(lambda: _says_why(ingest))
        for url in (ingest.service.url, ingest.service.health_url):
            ready = await ingest.client.get(f"{url}/readyz")
            assert (ready.status_code, ready.content) == (503, b'{"status":"not ready"}')


async def _says_why(ingest: Ingest) -> bool:
    return await ingest.part("broker") not in ("ok", "not connected yet")


async def test_metrics_count_what_happened(ingest: Ingest, laptop: str) -> None:
    for quantity in (1, 2, 3, 0):
        await ingest.order(laptop, quantity)
    text = (await ingest.get("/metrics")).text
    for sample in (
        "headrace_orders_accepted_total 3.0",
        'headrace_orders_refused_total{reason="invalid-value"} 1.0',
        'headrace_confirm_seconds_count{exchange="orders_exchange"} 3.0',
        "headrace_orders_in_flight 0.0",
        "headrace_bytes_in_flight 0.0",
        "headrace_group_commit_orders_sum 3.0",
        'headrace_catalogue_lookups_total{source="postgres"} 1.0',
        "headrace_catalogue_products 1.0",
    ):
        assert f"\n{sample}\n" in text
    assert "process_cpu_seconds_total" in text
