"""Nothing can be logged, while what makes services log a lot happens: servers go and come back."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.account.signs import ANY, Counts, Logged
from tests.chaos.scene.scene import BreakableScene
from tests.support.services.deployment import SERVICES
from tests.support.services.processes import Service

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_DROPPED = "log lines were dropped"


@contextmanager
def full_disk(services: list[Service]) -> Iterator[None]:
    """Whatever these write to files is refused. It is a limit on the size of files, which needs no privileges: the same
    call raises the same error, with EFBIG in it where a full disk says ENOSPC.
    """
    unlimited = resource.RLIM_INFINITY
    for service in services:
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, unlimited))
    try:
        yield
    finally:
        for service in services:
            if service.process.returncode is None:
                resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))


@pytest.mark.deep
@pytest.mark.scenario("19", "the log's disk full, while Redis and the broker are killed and a worker is stopped")
async def test_p12_a_log_that_cannot_be_written_stops_no_work(scene: BreakableScene) -> None:
    """P12: each connection is made again. P9: SIGTERM is obeyed. P1: and nothing is lost."""
    async with scene.under_load():
        services = [scene.deployment.services[name] for name in SERVICES]
        with full_disk(services):
            told = {it.name: len(it.log()) for it in services}
            await scene.servers.kill("redis")
            await scene.servers.kill("rabbitmq")
            scene.over()
            await scene.recovers()
            assert {it.name: len(it.log()) for it in services} == told, "something was written: no fault at all"
            for name in ("persist_worker", "product_consumer"):
                assert await scene.deployment.stop(name) == 0
            await scene.deployment.start_missing()
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("ingest_api", _DROPPED),
        Logged("product_api", _DROPPED),
        Counts(ANY, 'headrace_log_lines_dropped_total{because="unwritable"}'),
    )
