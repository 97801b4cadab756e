"""Runs steps one after the other within a time budget, and saves the results after each."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from aiormq.exceptions import AMQPError

from benchmarks.contenders.contender import Contender
from benchmarks.generators.generators import GeneratorFailed
from benchmarks.report import results
from benchmarks.report.results import Results, Run, Skipped
from benchmarks.run.deployment import ContenderFailed
from benchmarks.run.measure import Place, failed
from benchmarks.run.servers import Servers

# What a contender, the servers under it, or a generator may come to. Anything else is a bug of ours, and ends the run.
FAILURES = (
    *(ContenderFailed, GeneratorFailed, OSError, TimeoutError),
    *(AMQPError, asyncpg.PostgresError, asyncpg.InterfaceError),
)

Report = Callable[[Run], None]
"""Takes a run as soon as it is known: a step that fails in its middle has then not lost its beginning."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    pairs: int
    load_s: float
    """Of the comparison that comes first."""
    other_s: float
    """Of a load in most other experiments."""
    few_pairs: int
    """With 64 connections: so many of the pairs."""
    left_out: tuple[str, ...]
    """Contenders that the comparison does without."""
    warm_up_s: float
    open_pairs: int
    """Runs of each open loop: their median is told."""
    open_loop_s: float
    knee_s: float
    ablation_pairs: int
    ablation_s: float
    grown: tuple[int, ...]
    """Rows that are stored already."""
    grown_runs: int
    """So many with each of them."""
    backlog: int
    soak_s: float
    budget_s: float


QUICK = Scale(
    pairs=2,
    load_s=4,
    other_s=3,
    few_pairs=0,
    left_out=("headrace-keyed", "sync-tuned-confirmed"),
    warm_up_s=1,
    open_pairs=1,
    open_loop_s=10,
    knee_s=4,
    ablation_pairs=1,
    ablation_s=3,
    grown=(0, 100_000, 500_000),
    grown_runs=1,
    backlog=100_000,
    soak_s=30,
    budget_s=5.7 * 60,
)
FULL = Scale(
    pairs=5,
    load_s=7,
    other_s=5,
    few_pairs=2,
    left_out=(),
    warm_up_s=1,
    open_pairs=3,
    open_loop_s=60,
    knee_s=6,
    ablation_pairs=2,
    ablation_s=4,
    grown=(0, 1_000_000, 5_000_000),
    grown_runs=3,
    backlog=1_000_000,
    soak_s=600,
    budget_s=44 * 60,
)


@dataclass(frozen=True)
class Step:
    """A piece of work that yields runs. `seconds`: its estimated time."""

    place: Place
    contender: Contender
    load: str
    """In the words of Run.load: what a failure is reported as."""
    seconds: float
    run: Callable[[Servers, Report], Awaitable[None]]


def reason_of(error: Exception) -> str | None:
    """Why a step failed, in words; None for what is a bug of ours. Task groups wrap what their tasks raise."""
    if isinstance(error, ExceptionGroup):
        reasons = [reason_of(it) for it in error.exceptions]
        return None if None in reasons else reasons[0]
    return (str(error) or type(error).__name__) if isinstance(error, FAILURES) else None


def left_s(steps: Sequence[Step]) -> float:
    return sum(step.seconds for step in steps)


def as_time(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02}"


def in_words(run: Run) -> str:
    """One run on one line."""
    if run.failed is not None:
        return f"FAILED: {run.failed}"
    cpu_us = sum(us for part, us in run.cpu_us_per_order.items() if part != "generator")
    figures = [f"{run.end_to_end_per_s:,.0f} orders/s", f"{cpu_us:.0f} µs CPU an order"]
    if run.latency_ms.p50 is not None:
        figures.append(f"p50 {run.latency_ms.p50:.1f} ms, p99 {run.latency_ms.p99:.1f} ms")
    if run.drain_s >= 1:
        figures.append(f"drained {run.drain_s:.1f} s after")
    figures += [f"{run.errors:,} errors"] * bool(run.errors)
    figures += ["GENERATOR-BOUND"] * run.generator_bound
    figures += [f"VOID: {reason}" for reason in (run.void, run.disturbed) if reason is not None]
    return ", ".join(figures)


def title_of(place: Place, contender: Contender, load: str) -> str:
    words = f"{place.experiment} #{place.pair}: {contender.name}, {load}"
    return f"{words}, {place.variant}" if place.variant else words


# ── I/O below


@dataclass
class Progress:
    """Keeps the results and the time; speaks on standard error."""

    results: Results
    file: Path
    budget_s: float | None
    """None: as long as it takes."""
    started_s: float = field(default_factory=time.monotonic)

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self.started_s

    def tell(self, text: str) -> None:
        print(f"[{as_time(self.passed_s)}] {text}", file=sys.stderr, flush=True)

    def add(self, run: Run) -> None:
        self.results.runs.append(run)
        title = f"{run.experiment} #{run.pair}: {run.contender}, {run.load}" + f", {run.variant}" * bool(run.variant)
        self.tell(f"{title}: {in_words(run)}")
        self.save()

    def save(self) -> None:
        """Whole or not at all: it is written beside and renamed."""
        self.results.seconds = round(self.passed_s, 1)
        beside = self.file.with_suffix(".unfinished")
        beside.write_bytes(results.encode(self.results))
        beside.replace(self.file)

    async def work_off(self, steps: Sequence[Step], servers: Servers) -> None:
        """Run the steps that fit into the budget. A failed step becomes a row, and the next one runs."""
        for place, step in enumerate(steps):
            if self.budget_s is not None and self.passed_s + step.seconds > self.budget_s:
                self._skip(step)
                continue
            self.tell(
                f"about {as_time(self._left_s(steps[place:]))} left; {title_of(step.place, step.contender, step.load)}"
            )
            try:
                await step.run(servers, self.add)
            except Exception as error:
                if (reason := reason_of(error)) is None:
                    raise
                self.add(failed(step.place, step.contender, step.load, reason))

    def _left_s(self, steps: Sequence[Step]) -> float:
        ours = left_s(steps)
        return ours if self.budget_s is None else min(ours, self.budget_s - self.passed_s)

    def _skip(self, step: Step) -> None:
        assert self.budget_s is not None
        what = title_of(step.place, step.contender, step.load)
        reason = f"no time: it takes about {step.seconds:.0f} s, and {self.budget_s - self.passed_s:.0f} s are left"
        self.results.skipped.append(Skipped(step.place.experiment, what, reason))
        self.tell(f"skipped {what}: {reason}")
