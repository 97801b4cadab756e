"""Honest clients get in despite half-sent requests, thousands of slow sockets, and a lack of file descriptors."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.clients.hostile import order_of
from tests.support.clients.raw_http import RawClient
from tests.support.scenes.ingest_faults import behind
from tests.support.services.ingest import Ingest, ingesting
from tests.support.services.processes import Service
from tests.support.time.conditions import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")

_HALF_A_HEAD = b"POST /api/v1/orders HTTP/1.1\r\nHost: local"
# How many files the process may open in these tests, beyond those that it has open.
_FILES_LEFT = 150


@contextmanager
def allowed_files(service: Service, number: int) -> Iterator[None]:
    """As if an operator lowered the limit while the process runs."""
    before = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        if service.process.returncode is None:
            resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def half_open(url: str, number: int) -> AsyncIterator[list[RawClient]]:
    clients: list[RawClient] = []
    try:
        for _ in range(number):
            client = await RawClient.connect(url)
            client.send(_HALF_A_HEAD)
            clients.append(client)
        yield clients
    finally:
        for client in clients:
            client.close()


async def test_p8_when_files_run_out_probes_and_servers_are_reached_and_no_core_is_burnt(
    shared_environment: dict[str, str], product: str
) -> None:
    environment = dict(shared_environment)
    async with behind(environment, "AMQP_URL") as broker, ingesting(environment) as ingest:
        async with httpx.AsyncClient(base_url=ingest.service.health_url, timeout=2) as probe:
            with allowed_files(ingest.service, _open_files(ingest) + _FILES_LEFT):
                async with half_open(ingest.service.url, 2 * _FILES_LEFT):
                    await eventually(lambda: _pauses(ingest.service), 10)
                    assert (await probe.get("/livez")).status_code == 200
                    cpu_s, began = _cpu_s(ingest), time.monotonic()
                    broker.go_away()
                    await asyncio.sleep(1)
                    broker.come_back()
                    await eventually(lambda: _is_ready(probe), 10)
                    share = (_cpu_s(ingest) - cpu_s) / (time.monotonic() - began)
                    assert share < 0.2, f"{share:.0%} of a core"
                    # Idle connections have made room.
                    honest = await RawClient.connect(ingest.service.url)
                    honest.send(order_of(product))
                    async with asyncio.timeout(5):
                        assert (await honest.answer())[0] == 202
                    honest.close()
        log = ingest.service.log()
        assert log.count("not accepting connections") == 1, log[-2000:]


async def test_p8_places_that_are_all_taken_by_half_sent_requests_keep_nobody_out(
    shared_environment: dict[str, str], product: str
) -> None:
    async with ingesting(shared_environment, max_connections=100) as ingest:
        async with half_open(ingest.service.url, 300), httpx.AsyncClient(timeout=2) as probe:
            for _ in range(5):
                assert (await ingest.order(product)).status_code == 202
                for url in (ingest.service.url, ingest.service.health_url):
                    assert (await probe.get(f"{url}/livez")).status_code == 200
            metrics = await ingest.service.metrics()
            assert metrics['headrace_connections{state="unfinished"}'] > 50
            assert metrics['headrace_connections_closed_total{reason="room"}'] >= 200
        await eventually(lambda: ingest.service.log().count("closed connections of slow or surplus clients") == 1)


def _open_files(ingest: Ingest) -> int:
    return len(list(Path(f"/proc/{ingest.service.process.pid}/fd").iterdir()))


def _cpu_s(ingest: Ingest) -> float:
    fields = Path(f"/proc/{ingest.service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def _pauses(service: Service) -> bool:
    async with httpx.AsyncClient(timeout=2) as client:
        text = (await client.get(f"{service.health_url}/metrics")).text
    return "headrace_accept_pauses_total 0.0" not in text and "headrace_accept_pauses_total" in text


async def _is_ready(probe: httpx.AsyncClient) -> bool:
    try:
        return (await probe.get("/readyz")).status_code == 200
    except httpx.TimeoutException:
        return False
