"""Data types: a load, its target, and a generator's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generators.bodies import PLAIN, Shape
from benchmarks.report.results import Percentiles

NO_PERCENTILES = Percentiles()


class GeneratorFailed(Exception):
    """The generator ended without a result. The text says why."""


@dataclass(frozen=True)
class Load:
    """How requests arrive. Exactly one of `connections` and `rate` is set."""

    seconds: float
    connections: int = 0
    """Closed loop: the number of connections; each sends its next request when it was answered."""
    rate: int = 0
    """Open loop: requests a second, on a timetable."""
    products: int = 1_000
    """Over how many the orders are spread, evenly."""
    most_requests: int = 0
    """Closed loop: it ends early after so many; 0: it does not."""
    shape: Shape = PLAIN
    cancelled: float = 0.0
    """The share of orders whose clients cancel them at once after the 2xx."""
    by_k6: bool = False
    """Open loop: by k6, on an even timetable, to check the generator that is ours."""

    @property
    def name(self) -> str:
        return f"open {self.rate}/s" if self.rate else f"closed {self.connections}"


@dataclass(frozen=True)
class Target:
    """Where to send requests, and their bodies."""

    url: str
    """Of the server, without the path."""
    path: str
    bodies: Path
    """A file, one request body a line; sent in turn."""
    keyed: bool = False
    cancelled: float = 0.0
    """As in Load."""


@dataclass
class Used:
    """CPU time and memory of a generator."""

    cpu_s: float = 0.0
    rss_mb: float = 0.0
    """At its peak."""


@dataclass(frozen=True)
class Sent:
    """A generator's result. Times are Unix seconds."""

    generator: str
    first_s: float
    last_s: float
    """Of the last answer."""
    errors: int
    """Requests that got no 2xx, whatever the reason, and those that were due and could not be sent."""
    unknown: int
    """Of them, those that may have been accepted all the same: no answer came, or a 5xx."""
    latency_ms: Percentiles
    ids: list[str]
    """From the 2xx answers, as they came."""
    used: Used
    cores: int
    """How many it can use, or, of one that takes what there is, how many it may."""
    first_refusal: str = ""
    late_ms: Percentiles = NO_PERCENTILES
    """Open loop: how much later than due it sent requests for which a connection was free. k6 does not tell."""
    driving_cpu_s: float | None = None
    """Of `used`, from the first request to the last answer, where the generator tells: without its start."""
    cancelled: Sequence[str] = ()
    """Ids of orders whose cancellation was answered 2xx. In `errors` and `unknown`, cancellations count as requests."""

    @property
    def seconds(self) -> float:
        return self.last_s - self.first_s

    @property
    def share_of_core(self) -> float:
        return self.used.cpu_s / self.seconds if self.seconds else 0.0
