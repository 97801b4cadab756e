"""The closed-loop generator: wrk, with a Lua script that keeps the ids of what was accepted."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.generators.generators import GeneratorFailed, Load, Sent, Target, Used
from benchmarks.processes import peak_mb
from benchmarks.report.results import Percentiles
from stack.process.identity import wrap

SCRIPT = Path(__file__).with_name("orders.lua")
# After the last request wrk stays for its answer, so long at the most.
GRACE_S = 5
_ALL_ANSWERED = b"all answered"
TIMEOUT_S = 10
WATCH_S = 0.25


def find() -> str | None:
    return shutil.which("wrk")


def version() -> str | None:
    """None when there is no wrk."""
    if (program := find()) is None:
        return None
    # It has no option for this: it tells it together with its usage, and fails.
    words = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout.split()
    return words[1].removeprefix("debian/") if len(words) > 1 else "unknown"


def command(program: str, target: Target, load: Load) -> list[str]:
    duration_s = math.ceil(load.seconds) + GRACE_S
    return [
        *(program, "--threads", "1", "--connections", str(load.connections), "--duration", f"{duration_s}s"),
        *("--timeout", f"{TIMEOUT_S}s", "--script", str(SCRIPT), target.url),
    ]


def environment(target: Target, load: Load, directory: Path) -> dict[str, str]:
    return {
        "ORDERS_BODIES": str(target.bodies),
        "ORDERS_IDS": str(directory / "ids"),
        "ORDERS_SUMMARY": str(directory / "summary"),
        "ORDERS_SECONDS": str(load.seconds),
        "ORDERS_MOST": str(load.most_requests),
        "ORDERS_KEYED": "1" if target.keyed else "",
        "ORDERS_CANCELLED": f"{target.cancelled:g}",
        "ORDERS_CANCELS": str(directory / "cancels"),
        "ORDERS_PATH": target.path,
    }


def read_summary(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition(" ") for line in text.splitlines())}


def to_sent(summary: Mapping[str, str], ids: list[str], used: Used, cancelled: Sequence[str] = ()) -> Sent:
    """Raises GeneratorFailed when there was no answer at all."""
    if (answered := int(summary["answered"])) == 0:
        raise GeneratorFailed(f"no answer to any of {summary['sent']} requests; {summary['broken']} broken connections")
    unanswered = int(summary["sent"]) - answered
    return Sent(
        generator="wrk",
        first_s=float(summary["first_s"]),
        last_s=float(summary["last_s"]),
        errors=int(summary["refused"]) + unanswered,
        unknown=int(summary["failed"]) + unanswered,
        latency_ms=Percentiles(*(float(summary[f"{name}_us"]) / 1000 for name in ("p50", "p90", "p99", "max"))),
        ids=ids,
        cancelled=cancelled,
        used=used,
        cores=1,
        first_refusal=summary["first_refusal"],
    )


# ── I/O below


async def drive(target: Target, load: Load, directory: Path) -> Sent:
    """Send orders for `load.seconds`. `directory`: for its files. Raises GeneratorFailed."""
    program = find()
    assert program is not None
    argv, variables = command(program, target, load), environment(target, load, directory)
    used, output = await run(argv, variables, last_words=_ALL_ANSWERED)
    try:
        summary = read_summary((directory / "summary").read_text())
    except OSError:
        raise GeneratorFailed(f"wrk left no result: {output[-500:]}") from None
    ids, cancelled = ((directory / name).read_text().split() for name in ("ids", "cancels"))
    return to_sent(summary, ids, used, cancelled)


async def run(argv: list[str], variables: Mapping[str, str], last_words: bytes | None = None) -> tuple[Used, str]:
    """Run a generator to its end; killed when cancelled. Returns what it used and what it printed.

    `last_words`: a line after which it is asked to end. The CPU time is that of all children that end meanwhile: run
    nothing else at once. Raises GeneratorFailed.
    """
    before_s, used = _children_cpu_s(), Used()
    process = await asyncio.create_subprocess_exec(
        *wrap(argv, None, signal.SIGKILL),  # killed with us, if we are
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **variables},
        start_new_session=True,
    )
    watching = asyncio.create_task(_watch_memory(process.pid, used))
    try:
        output = await _listen(process, last_words)
    finally:
        watching.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise GeneratorFailed(f"{argv[0]} ended with {process.returncode}: {output.decode()[-500:]}")
    used.cpu_s = _children_cpu_s() - before_s
    return used, output.decode()


async def _watch_memory(pid: int, used: Used) -> None:
    """Until cancelled: when it has ended, nobody can tell any more."""
    while True:
        used.rss_mb = max(used.rss_mb, peak_mb(pid))
        await asyncio.sleep(WATCH_S)


async def _listen(process: asyncio.subprocess.Process, last_words: bytes | None) -> bytes:
    """All that it prints, until it ends. To wrk, SIGINT is as good as the end of its time."""
    assert process.stdout is not None
    output = b""
    async for line in process.stdout:
        output += line
        if line.strip() == last_words:
            process.send_signal(signal.SIGINT)
    await process.wait()
    return output


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
