"""Measures an honest client while others attack: latency, the liveness probe, and the service's memory.

async with honest(service, requests) as client:         50 requests a second, /livez ten times
    async with attacking("gets", service.url, …):       tests.support.clients.attackers
        ...
tell(client.figures.line("what it was"))
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

from tests.support.brokers.broker import running_task
from tests.support.clients.hostile import MIB, memory_of
from tests.support.clients.raw_http import RawClient
from tests.support.services.processes import Service

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_PROBES_PER_S = 10.0
# A request without an answer by then counts as unanswered.
_PATIENCE_S = 10.0
# A request that has waited this long when the measurement ends is counted, although it has no answer.
_LONG_S = 0.5
# Measured before the attack: a machine with other work is slow already, which is not the attack's doing.
_CALM_S = 2.0
_CALM_P99_S = 0.025
# If the machine is this many times slower, the measured times are void.
_VOID = 3.0


@dataclass(frozen=True)
class AnsweredRequest:
    """One request of the honest client, and its answer."""

    status: int
    """0: the connection ended, or no answer came within 10 s."""
    took_s: float
    """Seconds since the request was due, not since it was sent: no coordinated omission."""
    body: bytes = b""


@dataclass(frozen=True)
class Figures:
    """The honest client's results."""

    statuses: Counter[int]
    p50_s: float
    p99_s: float
    probes: int
    probes_failed: int
    slowest_probe_s: float
    grown_mb: float
    """The service's peak memory, minus that at the start."""
    slack: float
    """How many times slower than an idle machine this one was before the attack: at least 1."""

    @property
    def is_void(self) -> bool:
        """Whether the machine was too busy for the times to mean anything."""
        return self.slack > _VOID

    def line(self, attack: str) -> str:
        """One line for the terminal."""
        told = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{attack}: honest p50 {self.p50_s * 1000:.0f} ms, p99 {self.p99_s * 1000:.0f} ms ({told});"
            f" /livez at most {self.slowest_probe_s * 1000:.0f} ms, {self.probes_failed} of {self.probes} failed;"
            f" memory +{self.grown_mb:.0f} MB"
            f"{f'; TIMES VOID: the machine was {self.slack:.0f} times too slow before' if self.is_void else ''}"
        )


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that a `share` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


# ── I/O below


class HonestClient:
    """An open-loop client: sends requests at a pace and records the answers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._free: list[RawClient] = []
        self.answers: list[AnsweredRequest] = []
        self.probes: list[AnsweredRequest] = []
        self.late_s: list[float] = []
        self.late_probes_s: list[float] = []
        """Waiting times of probes without an answer when the block ended."""
        self.figures: Figures
        """Set when the block has ended."""

    async def send(self, requests: Iterable[bytes], per_s: float) -> None:
        """Send each request when it is due, on a free or new connection, until cancelled."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(requests):
                due = began + number / per_s
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self._ask(request, due, self._free, self.answers, self.late_s))

    async def probe(self) -> None:
        """Probe /livez on a new connection each time, as an orchestrator does, until cancelled."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                due = began + number / _PROBES_PER_S
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self._ask(LIVEZ, due, [], self.probes, self.late_probes_s))

    async def _ask(
        self, request: bytes, due: float, free: list[RawClient], answers: list[AnsweredRequest], late_s: list[float]
    ) -> None:
        """Send one request and record its answer, or how long it had waited when the block ended."""
        status, body, client = 0, b"", _open(free)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                client = client or await RawClient.connect(self._url)
                client.send(request)
                status, headers, body = await client.answer()
            if headers.get("connection") != "close":
                free.append(client)
                client = None
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            if time.monotonic() - due > _LONG_S:
                late_s.append(time.monotonic() - due)
            raise
        finally:
            if client is not None:
                client.close()
        answers.append(AnsweredRequest(status, time.monotonic() - due, body))


def _open(free: list[RawClient]) -> RawClient | None:
    """A connection that the server has not closed. HTTP clients also check before they reuse one."""
    while free:
        client = free.pop()
        if not client.is_ended:
            return client
        client.close()
    return None


@asynccontextmanager
async def honest(service: Service, requests: Iterable[bytes], *, per_s: float = 50.0) -> AsyncIterator[HonestClient]:
    """Run an honest client of `service`, and a prober of /livez, for the block. `requests`: endless."""
    each = iter(requests)
    calm = HonestClient(service.url)
    async with running_task(*_at_work(calm, each, per_s)):
        await asyncio.sleep(_CALM_S)  # time is the subject
    client = HonestClient(service.url)
    with memory_of(service) as grown_bytes:
        async with running_task(*_at_work(client, each, per_s)):
            yield client
        slack = max(1.0, quantile(_took_s(calm), 0.99) / _CALM_P99_S)
        client.figures = _figures(client, grown_bytes() / MIB, slack)


def _at_work(client: HonestClient, requests: Iterator[bytes], per_s: float) -> list[Coroutine[Any, Any, None]]:
    return [client.probe(), client.send(requests, per_s)]


def _took_s(client: HonestClient) -> list[float]:
    return [*(it.took_s for it in client.answers), *client.late_s]


def _figures(client: HonestClient, grown_mb: float, slack: float) -> Figures:
    return Figures(
        Counter(it.status for it in client.answers),
        quantile(_took_s(client), 0.5),
        quantile(_took_s(client), 0.99),
        len(client.probes),
        sum(it.status != 200 for it in client.probes),
        max([*(it.took_s for it in client.probes), *client.late_probes_s]),
        grown_mb,
        slack,
    )
