"""What an honest client gets while others attack: how long its requests take, the probe, and the service's memory.

async with honest(service, requests) as client:         100 requests a second, on 8 connections; /livez ten times
    async with attacking("gets", service.url, …):       tests.attackers
        ...
tell(client.figures.line("what it was"))
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil

from tests.broker import running_task
from tests.hostile import MIB, memory_of
from tests.processes import Service
from tests.raw_http import RawClient

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_CONNECTIONS = 8
_PROBES_PER_S = 10.0
# Whoever has no answer by then has none.
_PATIENCE_S = 10.0
# Whoever has waited so long when the measurement ends is counted.
_LONG_S = 0.5


@dataclass(frozen=True)
class Answered:
    """One request of the honest client."""

    status: int
    """0: the connection ended, or nothing came within 10 s."""
    took_s: float
    """From when it was due: a client that waits for an answer sends no later because of it."""
    body: bytes = b""


@dataclass(frozen=True)
class Figures:
    """What the honest client was given."""

    statuses: Counter[int]
    p50_s: float
    p99_s: float
    probes: int
    probes_failed: int
    slowest_probe_s: float
    grown_mb: float
    """The most memory that the service held, beyond what it held at first."""

    def line(self, attack: str) -> str:
        """For the terminal."""
        told = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{attack}: honest p50 {self.p50_s * 1000:.0f} ms, p99 {self.p99_s * 1000:.0f} ms ({told});"
            f" /livez at most {self.slowest_probe_s * 1000:.0f} ms, {self.probes_failed} of {self.probes} failed;"
            f" memory +{self.grown_mb:.0f} MB"
        )


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest of the values that so many are at most as large as."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


# ── I/O below


class Honest:
    """Sends what it is given at a pace, whatever becomes of it, and notes what it was answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.answers: list[Answered] = []
        self.probes: list[Answered] = []
        self.figures: Figures
        """Once the block has ended."""

    async def send(self, requests: Iterable[bytes], per_s: float, delay_s: float) -> None:
        """Until cancelled, from `delay_s` on. A connection that ends is opened again."""
        clients: list[RawClient | None] = [None]
        began = time.monotonic() + delay_s
        for number, request in enumerate(requests):
            due = began + number / per_s
            await asyncio.sleep(due - time.monotonic())
            await self._ask(request, due, clients, self.answers)

    async def probe(self) -> None:
        """Until cancelled, on a new connection each time, as those do that restart what does not answer."""
        began = time.monotonic()
        for number in itertools.count():
            due = began + number / _PROBES_PER_S
            await asyncio.sleep(due - time.monotonic())
            await self._ask(LIVEZ, due, [None], self.probes)

    async def _ask(self, request: bytes, due: float, clients: list[RawClient | None], answers: list[Answered]) -> None:
        """Send one request and note its answer. One that has waited for long when the block ends is noted as well."""
        status, body = 0, b""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                client = clients[0] = clients[0] or await RawClient.connect(self._url)
                client.send(request)
                status, headers, body = await client.answer()
            if headers.get("connection") == "close":
                self._close(clients)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self._close(clients)
        except asyncio.CancelledError:
            if time.monotonic() - due > _LONG_S:
                answers.append(Answered(0, time.monotonic() - due))
            raise
        answers.append(Answered(status, time.monotonic() - due, body))

    def _close(self, clients: list[RawClient | None]) -> None:
        if clients[0] is not None:
            clients[0].close()
        clients[0] = None


@asynccontextmanager
async def honest(service: Service, requests: Iterable[bytes], *, per_s: float = 100.0) -> AsyncIterator[Honest]:
    """An honest client of `service` for the length of the block, and somebody who asks for /livez. `requests`: without
    an end.
    """
    client, each = Honest(service.url), iter(requests)
    lanes = (client.send(each, per_s / _CONNECTIONS, lane / per_s) for lane in range(_CONNECTIONS))
    with memory_of(service) as grown_bytes:
        async with running_task(client.probe(), *lanes):
            yield client
        client.figures = _figures(client, grown_bytes() / MIB)


def _figures(client: Honest, grown_mb: float) -> Figures:
    took_s = [it.took_s for it in client.answers]
    return Figures(
        Counter(it.status for it in client.answers),
        quantile(took_s, 0.5),
        quantile(took_s, 0.99),
        len(client.probes),
        sum(it.status != 200 for it in client.probes),
        max(it.took_s for it in client.probes),
        grown_mb,
    )
