"""Runs the open-loop generator, benchmarks/generators/arrivals.py, and reads its results."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.generators import wrk
from benchmarks.generators.generators import GeneratorFailed, Load, Sent, Target, Used
from benchmarks.report.results import percentiles
from stack.home.directory import ROOT

# More than this are in use at once only where answers take a second at 1,000/s: then requests wait for one.
CONNECTIONS = 1_000
_MODULE = "benchmarks.generators.arrivals"


class Summary(msgspec.Struct, frozen=True):
    """What arrivals.py writes."""

    first_s: float
    last_s: float
    answered: int
    refused: int
    failed: int
    """Of the refused: with 5xx."""
    unanswered: int
    unsent: int
    first_refusal: str
    cpu_s: float
    """From the first request to the last answer."""


def environment(target: Target, load: Load, directory: Path) -> dict[str, str]:
    return {
        "ORDERS_URL": target.url + target.path,
        "ORDERS_BODIES": str(target.bodies),
        "ORDERS_RATE": str(load.rate),
        "ORDERS_SECONDS": f"{load.seconds:g}",
        "ORDERS_CLIENTS": str(CONNECTIONS),
        "ORDERS_KEYED": "1" if target.keyed else "",
        "ORDERS_CANCELLED": f"{target.cancelled:g}",
        "ORDERS_SEED": str(load.rate),
        "ORDERS_DIRECTORY": str(directory),
        # PYTHONPATH rather than the working directory, which is the contender's business.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }


def to_sent(
    summary: Summary,
    latencies_s: array[float],
    latenesses_s: array[float],
    ids: list[str],
    used: Used,
    cancelled: Sequence[str] = (),
) -> Sent:
    """Raises GeneratorFailed when nothing was answered."""
    if not summary.answered:
        raise GeneratorFailed(f"no answer to any request; {summary.unanswered} sent, {summary.unsent} not sent")
    waited = f"{summary.unsent} were due and no connection was free to the end" if summary.unsent else ""
    return Sent(
        generator="arrivals",
        first_s=summary.first_s,
        last_s=summary.last_s,
        errors=summary.refused + summary.unanswered + summary.unsent,
        unknown=summary.failed + summary.unanswered,
        latency_ms=percentiles([it * 1000 for it in latencies_s]),
        ids=ids,
        cancelled=cancelled,
        used=used,
        cores=1,
        first_refusal=summary.first_refusal or waited,
        late_ms=percentiles([it * 1000 for it in latenesses_s]),
        driving_cpu_s=summary.cpu_s,
    )


# ── I/O below


async def drive(target: Target, load: Load, directory: Path) -> Sent:
    """Send `load.rate` requests a second for `load.seconds`. `directory`: for files. Raises GeneratorFailed."""
    (directory / "summary").unlink(missing_ok=True)
    used, output = await wrk.run([sys.executable, "-m", _MODULE], environment(target, load, directory))
    try:
        summary = msgspec.json.decode((directory / "summary").read_bytes(), type=Summary)
    except OSError:
        raise GeneratorFailed(f"{_MODULE} left no result: {output[-500:]}") from None
    latencies, latenesses = (_doubles(directory / name) for name in ("latencies", "latenesses"))
    ids, cancelled = ((directory / name).read_text().split() for name in ("ids", "cancels"))
    return to_sent(summary, latencies, latenesses, ids, used, cancelled)


def _doubles(file: Path) -> array[float]:
    found = array("d")
    found.frombytes(file.read_bytes())
    return found
