"""Watches a scenario: does stock add up at every look, and how much memory do the services use?"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import httpx

from tests.chaos.account.server_state import unbalanced
from tests.support.services.deployment import Deployment
from tests.support.services.processes import Service
from tests.support.services.workers import connected

_LOOK_EVERY_S = 0.5
LEAST_LOOKS = 4
# Enough reads that a wrong cache would show.
_READS_PER_S = 20
_PATIENCE_S = 2.0
_PAGE_MB = 4096 / 1024**2
# PostgreSQL may be the server that is away.
_PASSING = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Watch:
    def __init__(self, deployment: Deployment, database_url: str) -> None:
        self._deployment, self._database_url = deployment, database_url
        self._unbalanced: list[str] = []
        self.beside: list[Service] = []
        """Additional services of the scenario."""
        self.peak_mb: dict[str, float] = {}
        """Service → highest memory at any look."""
        self._looks = 0

    async def run(self) -> None:
        """MemorySample twice a second until cancelled."""
        while True:
            self.look_at_memory()
            with contextlib.suppress(*_PASSING):
                await self._look_at_stock()
            await asyncio.sleep(_LOOK_EVERY_S)  # a pace, and nothing that anybody waits for

    def begin(self) -> None:
        """Count looks from now on: the fault comes next."""
        self._looks = 0

    def found(self) -> list[str]:
        """Violations seen at any look, and a line if there were too few looks to tell."""
        if self._looks < LEAST_LOOKS:
            return [*self._unbalanced, f"the stock was only checked {self._looks} times"]
        return self._unbalanced

    def look_at_memory(self) -> None:
        for service in (*self._deployment.services.values(), *self.beside):
            self.peak_mb[service.name] = max(resident_mb(service.process.pid), self.peak_mb.get(service.name, 0.0))

    async def _look_at_stock(self) -> None:
        async with asyncio.timeout(_PATIENCE_S), connected(self._database_url) as connection:
            self._unbalanced += await unbalanced(connection)
            self._looks += 1


async def read_products(deployment: Deployment, rng: random.Random, product_ids: Sequence[str]) -> None:
    """Read products, and so fill the cache, until cancelled."""
    async with deployment.client("product_api") as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                await client.get(f"/products/{rng.choice(product_ids)}")
            await asyncio.sleep(1 / _READS_PER_S)


def resident_mb(pid: int) -> float:
    """Resident memory of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    except OSError:
        return 0.0
