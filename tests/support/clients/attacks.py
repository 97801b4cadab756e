"""What an honest client gets while others attack: how long its requests take, the probe, and the service's memory.

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
# Whoever has no answer by then has none.
_PATIENCE_S = 10.0
# Whoever has waited so long when the measurement ends is counted, although there is no answer.
_LONG_S = 0.5
# Before the attack. A machine with other work is slower then already, and that is not the attack's doing.
_CALM_S = 2.0
_CALM_P99_S = 0.025
# So many times slower, and the times are void.
_VOID = 3.0


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
    slack: float
    """How many times slower than a machine without other work this one was before the attack: at least 1."""

    @property
    def is_void(self) -> bool:
        """Whether the machine had so much other work that times say nothing of the attack."""
        return self.slack > _VOID

    def line(self, attack: str) -> str:
        """For the terminal."""
        told = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{attack}: honest p50 {self.p50_s * 1000:.0f} ms, p99 {self.p99_s * 1000:.0f} ms ({told});"
            f" /livez at most {self.slowest_probe_s * 1000:.0f} ms, {self.probes_failed} of {self.probes} failed;"
            f" memory +{self.grown_mb:.0f} MB"
            f"{f'; TIMES VOID: the machine was {self.slack:.0f} times too slow before' if self.is_void else ''}"
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
        self._free: list[RawClient] = []
        self.answers: list[Answered] = []
        self.probes: list[Answered] = []
        self.late_s: list[float] = []
        self.late_probes_s: list[float] = []
        """How long those had waited that had no answer when the block ended."""
        self.figures: Figures
        """Once the block has ended."""

    async def send(self, requests: Iterable[bytes], per_s: float) -> None:
        """Until cancelled: each when it is due, on a connection that is free or on a new one."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(requests):
                due = began + number / per_s
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self._ask(request, due, self._free, self.answers, self.late_s))

    async def probe(self) -> None:
        """Until cancelled, on a new connection each time, as those do that restart what does not answer."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                due = began + number / _PROBES_PER_S
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self._ask(LIVEZ, due, [], self.probes, self.late_probes_s))

    async def _ask(
        self, request: bytes, due: float, free: list[RawClient], answers: list[Answered], late_s: list[float]
    ) -> None:
        """Send one request and note its answer. One that has waited for long when the block ends is noted as well."""
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
        answers.append(Answered(status, time.monotonic() - due, body))


def _open(free: list[RawClient]) -> RawClient | None:
    """A connection that the server has not closed: HTTP clients look before they use one again."""
    while free:
        client = free.pop()
        if not client.is_ended:
            return client
        client.close()
    return None


@asynccontextmanager
async def honest(service: Service, requests: Iterable[bytes], *, per_s: float = 50.0) -> AsyncIterator[Honest]:
    """An honest client of `service` for the length of the block, and somebody who asks for /livez. `requests`: without
    an end.
    """
    each = iter(requests)
    calm = Honest(service.url)
    async with running_task(*_at_work(calm, each, per_s)):
        await asyncio.sleep(_CALM_S)  # time is the subject
    client = Honest(service.url)
    with memory_of(service) as grown_bytes:
        async with running_task(*_at_work(client, each, per_s)):
            yield client
        slack = max(1.0, quantile(_took_s(calm), 0.99) / _CALM_P99_S)
        client.figures = _figures(client, grown_bytes() / MIB, slack)


def _at_work(client: Honest, requests: Iterator[bytes], per_s: float) -> list[Coroutine[Any, Any, None]]:
    return [client.probe(), client.send(requests, per_s)]


def _took_s(client: Honest) -> list[float]:
    return [*(it.took_s for it in client.answers), *client.late_s]


def _figures(client: Honest, grown_mb: float, slack: float) -> Figures:
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
