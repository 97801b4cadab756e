"""The structs of the result file, and what is computed from them. Pure.

The report, the plots, the tables of the README and the verdict are all made from this file and from nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

SCHEMA = 1

SATURATION = "saturation"
SATURATED = "closed 256"
"""The load that the verdict speaks of."""
FEWER = "closed 64"
"""The load of the comparison with fewer connections."""

OPEN_LOOP, KNEE, GENERATORS = OPEN_LOOPS = ("open_loop", "knee", "generators")
"""The experiments whose result is a latency at a rate: it is not worth more than the machine was quiet."""
MOST_TO_OTHERS = 0.05
"""Of all cores, to the host's other guests and to other processes. At 12 %, p99 at 1,000/s was 137 ms instead of 10."""
MOST_LATE_MS, MOST_LATE_SHARE = 2.0, 0.25
"""How late the generator itself may be, 99th percentiles: so many ms, or such a part of the latency that it tells.

Its lateness is in the latency, and is not the contender's: so it makes a figure too high, never too low.
"""


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds. None: nothing was measured."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    max: float | None = None
    p999: float | None = None


def percentiles(values: Sequence[float]) -> Percentiles:
    """By nearest rank. `values` in any order, in ms."""
    if not values:
        return Percentiles()
    ordered = sorted(values)
    p50, p90, p99, p999 = (
        ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.9, 0.99, 0.999)
    )
    return Percentiles(*(round(value, 3) for value in (p50, p90, p99, ordered[-1], p999)))


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One contender under one load. A run that is void or failed has no place in any median."""

    experiment: str
    contender: str
    load: str
    """`closed 256`: so many connections, each sends when it was answered. `open 1000/s`: arrivals on a timetable.
    Anything else is said in words: `1,000,000 queued`."""
    pair: int
    """Runs of one experiment with the same number are neighbours in time: compare those."""
    variant: str = ""
    """What is special about this run, where an experiment varies more than load and contender: `1 product`."""

    seconds: float = 0.0
    """From the first request to the last answer."""
    accepted: int = 0
    """Orders answered 2xx in that time."""
    errors: int = 0
    """Requests that were refused, broken, timed out, or not sent for want of a free client (open loop)."""
    unknown_stored: int = 0
    """Orders stored although their request got no 2xx: allowed, as many as there are requests of unknown outcome."""
    accepted_per_s: float = 0.0
    end_to_end_per_s: float = 0.0
    """accepted / (seconds + drain_s): what can be sustained."""
    backlog: int = 0
    """Orders accepted and not decided when the last answer came."""
    drain_s: float = 0.0
    """From the last answer to the last verdict."""

    latency_ms: Percentiles = Percentiles()
    """Closed loop: from the request to its answer. Open loop: from the moment it was due."""
    stored_ms: Percentiles = Percentiles()
    """accepted_at → persisted_at, from the rows."""
    decided_ms: Percentiles = Percentiles()
    """accepted_at → decided_at, from the rows."""

    cpu_us_per_order: dict[str, float] = {}
    """User and system time by part, drain included: the contender's parts, postgres, rabbitmq, redis, generator."""
    rss_mb: dict[str, float] = {}
    """Peak resident memory by part, shared memory left out."""
    rss_slope_mb_per_h: dict[str, float] = {}
    """Soak only: least squares over the second half of the samples."""

    generator: str = ""
    generator_share: float = 0.0
    """CPU time of the generator as a share of one core."""
    generator_bound: bool = False
    """The generator used up the core(s) it can use: the contender may be faster than this."""
    busy_share: float = 0.0
    """Of all cores, from the first request to the last answer."""
    steal_share: float = 0.0
    """Of all cores: what the machine's host took away meanwhile."""
    others_share: float = 0.0
    """Of all cores: what was used meanwhile by processes that are no part of this, and by the kernel itself."""
    late_ms: Percentiles = Percentiles()
    """Open loop: how late the generator itself sent. None: it does not tell."""

    notes: list[str] = []
    void: str | None = None
    """Why this run proves nothing: orders were lost or duplicated, or stock does not add up."""
    failed: str | None = None
    """Why there is no result: the contender did not start, or died."""

    @property
    def disturbed(self) -> str | None:
        """Why the times of an open loop may say little of the contender, which makes the run void. None: they do."""
        if self.experiment not in OPEN_LOOPS or self.failed is not None:
            return None
        others = self.steal_share + self.others_share
        if others > MOST_TO_OTHERS:
            return f"{100 * others:.0f} % of the machine went to others, and {100 * MOST_TO_OTHERS:.0f} % may"
        if (late := self.late_ms.p99) is None:
            return None if self.experiment == GENERATORS else f"{self.generator or 'its generator'} tells no lateness"
        most_ms = max(MOST_LATE_MS, MOST_LATE_SHARE * (self.latency_ms.p99 or 0.0))
        return f"the generator was late: p99 {late:.1f} ms, and {most_ms:.1f} may be" if late > most_ms else None

    @property
    def counts(self) -> bool:
        return self.void is None and self.failed is None and self.disturbed is None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    cpu: str
    cores: int
    memory_mb: int
    kernel: str
    system: str
    versions: dict[str, str]
    """Of Python, servers, generators, and the libraries that the contenders stand on."""
    fsync_ms: Percentiles
    """One 8 KiB write and fdatasync, on the disk that the servers use."""


class Described(msgspec.Struct, frozen=True):
    """A contender, in words."""

    name: str
    title: str
    what: str
    guarantee: str
    peer: bool


class Skipped(msgspec.Struct, frozen=True):
    experiment: str
    what: str
    reason: str


class Results(msgspec.Struct, kw_only=True):
    """The result file."""

    schema: int = SCHEMA
    started_at: str
    """UTC, ISO 8601."""
    revision: str
    """The commit that was measured, with a + if the tree had changes; empty outside a repository."""
    quick: bool
    only: str | None
    machine: Machine
    contenders: list[Described]
    runs: list[Run] = []
    skipped: list[Skipped] = []
    seconds: float = 0.0
    interrupted: bool = False


class Spread(msgspec.Struct, frozen=True):
    """Median and range of several measurements."""

    median: float
    low: float
    high: float
    count: int


class Verdict(msgspec.Struct, frozen=True):
    """The figures that come first. None: not measured in this run."""

    headrace_orders_per_s: float | None
    """Sustained, end to end, 256 connections."""
    sync_tuned_orders_per_s: float | None
    ratio_sync_tuned: float | None
    """Median of the ratios of neighbours."""
    ratio_sync_statement: float | None
    """Beside what the synchronous design can do at the very most: one SQL statement for all of it, and no broker."""
    ratio_best_peer: float | None
    best_peer: str | None
    ingest_share_of_noop: float | None
    bulk_orders_per_s: float | None
    cpu_us_per_order: dict[str, float]


def spread(values: Iterable[float]) -> Spread | None:
    """Median, lowest and highest; None of nothing."""
    found = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1], len(found)) if found else None


def select(
    runs: Iterable[Run],
    experiment: str,
    contender: str | None = None,
    load: str | None = None,
    variant: str | None = None,
) -> list[Run]:
    """Those that count, of one experiment, contender, load and variant (None: of any)."""
    return [
        run
        for run in runs
        if run.counts
        and run.experiment == experiment
        and (contender is None or run.contender == contender)
        and (load is None or run.load == load)
        and (variant is None or run.variant == variant)
    ]


def end_to_end(run: Run) -> float:
    return run.end_to_end_per_s


def accepted(run: Run) -> float:
    return run.accepted_per_s


def median_of(runs: Iterable[Run], figure: Callable[[Run], float]) -> float | None:
    found = spread(map(figure, runs))
    return found.median if found else None


def ratios(these: Sequence[Run], those: Sequence[Run], figure: Callable[[Run], float]) -> list[float]:
    """figure(this) / figure(that) for each pair of neighbours that both count: what the machine does to one, it does
    to the other.
    """
    divisors = {run.pair: figure(run) for run in those if figure(run)}
    return [figure(run) / divisors[run.pair] for run in these if run.pair in divisors]


def median_ratio(these: Sequence[Run], those: Sequence[Run], figure: Callable[[Run], float]) -> float | None:
    found = spread(ratios(these, those, figure))
    return found.median if found else None


def median_by_part(runs: Sequence[Run]) -> dict[str, float]:
    """CPU µs an order, the median of each part by itself."""
    parts = dict.fromkeys(part for run in runs for part in run.cpu_us_per_order)
    return {part: round(statistics.median(run.cpu_us_per_order.get(part, 0.0) for run in runs), 1) for part in parts}


def best_peer(runs: Sequence[Run], peers: Iterable[str]) -> str | None:
    """The peer that sustains most."""
    sustained = {peer: median_of(select(runs, SATURATION, peer, SATURATED), end_to_end) for peer in peers}
    found = {peer: rate for peer, rate in sustained.items() if rate is not None}
    return max(found, key=lambda peer: found[peer], default=None)


def verdict(results: Results) -> Verdict:
    """What the whole run says."""
    runs = results.runs
    headrace = select(runs, SATURATION, "headrace", SATURATED)
    tuned = select(runs, SATURATION, "sync-tuned", SATURATED)
    statement = select(runs, SATURATION, "sync-statement", SATURATED)
    peer = best_peer(runs, [it.name for it in results.contenders if it.peer])
    peers = select(runs, SATURATION, peer, SATURATED) if peer else []
    alone, noop = select(runs, "ingest", "headrace-ingest"), select(runs, "ingest", "noop")
    cpu = median_by_part(headrace)
    cpu.pop("generator", None)
    return Verdict(
        headrace_orders_per_s=_rounded(median_of(headrace, end_to_end)),
        sync_tuned_orders_per_s=_rounded(median_of(tuned, end_to_end)),
        ratio_sync_tuned=_rounded(median_ratio(headrace, tuned, end_to_end), 2),
        ratio_sync_statement=_rounded(median_ratio(headrace, statement, end_to_end), 2),
        ratio_best_peer=_rounded(median_ratio(headrace, peers, end_to_end), 2),
        best_peer=peer,
        ingest_share_of_noop=_rounded(median_ratio(alone, noop, accepted), 3),
        bulk_orders_per_s=_rounded(median_of(select(runs, "bulk", "headrace-bulk"), end_to_end)),
        cpu_us_per_order=cpu,
    )


def void_runs(results: Results) -> list[Run]:
    return [run for run in results.runs if run.void is not None]


def was_always_disturbed(results: Results) -> bool:
    """Whether the latency at 1,000/s was measured, and no time without disturbance: it then says nothing."""
    runs = [run for run in results.runs if run.experiment == OPEN_LOOP]
    return any(run.disturbed for run in runs) and not any(run.counts for run in runs)


def summary(results: Results) -> dict[str, Any]:
    """What `--json` prints, but for where the files are."""
    return {
        "void": bool(void_runs(results)),
        "verdict": msgspec.to_builtins(verdict(results)),
        "void_runs": [_named(run, run.void) for run in void_runs(results)],
        "disturbed_runs": [_named(run, run.disturbed) for run in results.runs if run.disturbed is not None],
        "failed_runs": [_named(run, run.failed) for run in results.runs if run.failed is not None],
        "generator_bound_runs": sum(run.generator_bound for run in results.runs),
        "skipped": msgspec.to_builtins(results.skipped),
        "runs": len(results.runs),
        "quick": results.quick,
        "interrupted": results.interrupted,
        "seconds": round(results.seconds, 1),
    }


def _named(run: Run, reason: str | None) -> dict[str, Any]:
    return {
        "experiment": run.experiment,
        "contender": run.contender,
        "load": run.load,
        "pair": run.pair,
        "variant": run.variant,
        "reason": reason,
    }


def encode(results: Results) -> bytes:
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def decode(data: bytes) -> Results:
    """Raises msgspec.ValidationError."""
    return msgspec.json.decode(data, type=Results)


def _rounded(value: float | None, digits: int = 0) -> float | None:
    return None if value is None else round(value, digits)
