"""Synthetic benchmark results: a run with the fields that a test sets, and a file of such runs."""

from typing import Any

from benchmarks.report.results import Described, Machine, Percentiles, Results, Run

HERE = Machine(
    cpu="AMD EPYC 7B13",
    cores=2,
    memory_mb=8_000,
    kernel="6.1.0",
    system="Debian GNU/Linux 12",
    versions={"Python": "3.11.7", "wrk": "4.1.0"},
    fsync_ms=Percentiles(0.1, 0.2, 0.4, 1.0),
)
CONTENDERS = [
    Described("headrace", "Headrace", "In groups.", "On the broker's disk.", peer=False),
    Described("sync-tuned", "synchronous, tuned", "One by one.", "In PostgreSQL.", peer=False),
    Described("slow-peer", "a slow peer", "Slowly.", "In PostgreSQL.", peer=True),
    Described("fast-peer", "a <fast> peer", "Less slowly.", "Lost | found.", peer=True),
]


PUNCTUAL = Percentiles(0.1, 0.2, 0.3, 1.0, 0.5)
"""Lateness of an open-loop generator that is on time."""


def a_run(contender: str = "headrace", rate: float = 1_000.0, *, pair: int = 1, **more: Any) -> Run:
    """A run of one second with 256 connections, all orders stored, at `rate` orders/s. `more`: fields to set."""
    return Run(
        **{
            "experiment": "saturation",
            "contender": contender,
            "load": "closed 256",
            "pair": pair,
            "seconds": 1.0,
            "accepted": round(rate),
            "accepted_per_s": rate,
            "end_to_end_per_s": rate,
            **more,
        }
    )


def some_results(*runs: Run, **more: Any) -> Results:
    return Results(
        **{
            "started_at": "2026-01-02T03:04:05+00:00",
            "revision": "0123456789ab",
            "quick": False,
            "only": None,
            "machine": HERE,
            "contenders": CONTENDERS,
            "runs": list(runs),
            **more,
        }
    )
