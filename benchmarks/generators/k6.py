"""k6 checks the open-loop generator (benchmarks/generators/arrivals.py), and drives closed loops where wrk is missing.

In an open loop it sends at even intervals, whether or not it was answered, and costs ten times as much of the cores
that it shares with what it measures.

Latency counts from the moment a request was due, so a stall costs every request that was due meanwhile, and not only
the one that ran into it (coordinated omission). The moment is known to a millisecond: k6 has no finer clock. Once a
request went unsent for want of a client it is not known at all, because k6 gives such a request no number: then latency
counts from sending, the unsent ones are errors, and the run says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.generators import wrk
from benchmarks.generators.generators import GeneratorFailed, Load, Sent, Target, Used
from benchmarks.report.results import Percentiles

NAME = "k6"
SCRIPT = Path(__file__).with_name("open_loop.js")
# Clients for an open load: enough for answers that take half a second, then requests go unsent, and that is told.
# Each costs a Javascript machine of its own, so they are made before the first request is due.
LEAST_CLIENTS = 50
MOST_CLIENTS = 1_000
# It takes all cores it is let have, also those of what it drives. Past half of them it is measuring itself.
CORES = max(1, (os.cpu_count() or 1) // 2)


def find() -> str | None:
    """The one that was installed beside this Python first."""
    beside = Path(sys.executable).with_name("k6")
    return str(beside) if beside.exists() else shutil.which("k6")


def version() -> str | None:
    """None when there is no k6."""
    if (program := find()) is None:
        return None
    words = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout.split()
    return words[1].removeprefix("v") if len(words) > 1 else "unknown"


def clients_for(load: Load) -> int:
    return load.connections or min(max(load.rate // 2, LEAST_CLIENTS), MOST_CLIENTS)


def command(program: str, directory: Path) -> list[str]:
    return [
        *(program, "run", "--quiet", "--no-usage-report", "--no-color", "--log-format", "raw"),
        *("--console-output", str(directory / "ids"), "--address", "", str(SCRIPT)),
    ]


# It refuses what is shorter.
_LEAST_S = 1.0


def environment(target: Target, load: Load, directory: Path) -> dict[str, str]:
    return {
        "ORDERS_URL": target.url + target.path,
        "ORDERS_BODIES": str(target.bodies),
        "ORDERS_RATE": str(load.rate),
        "ORDERS_SECONDS": f"{max(_LEAST_S, load.seconds):g}",
        "ORDERS_MOST": str(load.most_requests),
        "ORDERS_CLIENTS": str(clients_for(load)),
        "ORDERS_KEYED": "1" if target.keyed else "",
        "ORDERS_CANCELLED": f"{target.cancelled:g}",
        "ORDERS_SUMMARY": str(directory / "summary"),
    }


_CANCELLED = "cancelled "
"""Marks the ids of cancelled orders among those on the console."""


def to_sent(metrics: Mapping[str, Any], said: list[str], used: Used) -> Sent:
    """`metrics`: as handleSummary gets them. `said`: the lines of the console. Raises GeneratorFailed when nothing was
    answered.
    """
    if "http_reqs" not in metrics:
        raise GeneratorFailed("k6 sent nothing")
    refused, unknown, dropped = (_count(metrics, name) for name in ("refused", "unknown", "dropped_iterations"))
    moments = metrics["moments"]["values"]
    latency = metrics["http_req_duration" if dropped else "from_due"]["values"]
    return Sent(
        generator=NAME,
        first_s=moments["min"] / 1000,
        last_s=moments["max"] / 1000,
        errors=refused + dropped,
        unknown=unknown,
        latency_ms=Percentiles(*(round(latency[name], 3) for name in ("med", "p(90)", "p(99)", "max"))),
        ids=[line for line in said if not line.startswith(_CANCELLED)],
        cancelled=[line.removeprefix(_CANCELLED) for line in said if line.startswith(_CANCELLED)],
        used=used,
        cores=CORES,
        first_refusal=f"{dropped} were due and no client was free; latency is from sending" if dropped else "",
    )


def _count(metrics: Mapping[str, Any], name: str) -> int:
    return int(metrics[name]["values"]["count"]) if name in metrics else 0


# ── I/O below


async def drive(target: Target, load: Load, directory: Path) -> Sent:
    """As wrk.drive; an open loop too. Raises GeneratorFailed."""
    if (program := find()) is None:
        raise GeneratorFailed("k6 is not installed")
    (directory / "summary").unlink(missing_ok=True)
    (directory / "ids").unlink(missing_ok=True)
    used, output = await wrk.run(command(program, directory), environment(target, load, directory))
    try:
        metrics = msgspec.json.decode((directory / "summary").read_bytes())
    except OSError:
        raise GeneratorFailed(f"k6 left no result: {output[-500:]}") from None
    return to_sent(metrics, (directory / "ids").read_text().splitlines(), used)
