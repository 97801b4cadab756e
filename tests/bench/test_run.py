"""The benchmark itself, on real servers and with its real tools: what it leaves, and what its exit code says."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.report.results import Results, decode
from tests.support.time.conditions import eventually

_ROOT = Path(__file__).parents[2]
_RUN_TIMEOUT_S = 180.0

# The first of these tests may have to wait until .venv-bench is installed.
pytestmark = pytest.mark.timeout(600)


@asynccontextmanager
async def _started(python: Path, home: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A benchmark in a process of its own, with its state in `home`. Told to end at the end, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        # What a shell runs in the background has SIGINT ignored, and so would this.
        *("env", "--default-signal=INT", str(python), "-m", "tests.bench.tiny", str(home / "results"), *arguments),
        cwd=_ROOT,
        env={**os.environ, "HEADRACE_HOME": str(home / "state")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ended(process: asyncio.subprocess.Process) -> tuple[int, bytes, str]:
    """Exit code, standard output, standard error."""
    async with asyncio.timeout(_RUN_TIMEOUT_S):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output, errors.decode()


def _results(home: Path) -> Results | None:
    """What is on disk by now."""
    found = list((home / "results").glob("*.json"))
    return decode(found[0].read_bytes()) if found else None


def _left_behind(home: Path) -> list[str]:
    """Processes that carry our HEADRACE_HOME in their environment: all that a benchmark starts does."""
    mark = f"HEADRACE_HOME={home / 'state'}".encode()
    return [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark in _read(path)]


def _text(file: str) -> str:
    return Path(file).read_text()


def _read(path: Path) -> bytes:
    """Empty when the process is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_a_run_accounts_for_every_order_and_leaves_figures_and_a_report(
    bench_python: Path, tmp_path: Path
) -> None:
    async with _started(bench_python, tmp_path, "headrace", "1") as process:
        code, output, errors = await _ended(process)
    assert code == 0, errors

    found = _results(tmp_path)
    assert found is not None
    closed, open_loop = found.runs
    assert (closed.load, open_loop.load) == ("closed 16", "open 100/s")
    for run in found.runs:
        assert run.counts, (run.void, run.failed)
        assert run.accepted > 0
        assert run.latency_ms.p99 is not None
        assert run.decided_ms.p99 is not None
        assert {"ingest_api", "persist_worker", "product_consumer", "postgres", "rabbitmq"} <= set(run.cpu_us_per_order)
        assert run.rss_mb["ingest_api"] > 20
        assert run.rss_mb["generator"] > 1
    assert 95 <= open_loop.accepted <= 105
    assert open_loop.errors == 0
    assert found.machine.fsync_ms.p50 is not None

    said = json.loads(output)
    assert (said["void"], said["void_runs"], said["failed_runs"]) == (False, [], [])
    assert decode(_text(said["result_file"]).encode()) == found
    assert _text(said["report_file"]).startswith("<!doctype html>")
    assert said["report_file"] in errors
    assert _left_behind(tmp_path) == []


async def test_a_contender_that_loses_orders_is_void_and_the_exit_code_says_so(
    bench_python: Path, tmp_path: Path
) -> None:
    async with _started(bench_python, tmp_path, "forgetful", "1") as process:
        code, output, errors = await _ended(process)
    assert code == 1, errors
    said = json.loads(output)
    assert said["void"] is True
    assert {run["contender"] for run in said["void_runs"]} == {"forgetful"}
    assert "answered and not stored" in said["void_runs"][0]["reason"]
    assert "lost orders" in _text(said["report_file"])


async def test_ctrl_c_keeps_what_was_measured_and_leaves_no_process_behind(bench_python: Path, tmp_path: Path) -> None:
    async with _started(bench_python, tmp_path, "headrace", "1000") as process:
        await eventually(lambda: (found := _results(tmp_path)) is not None and found.runs, _RUN_TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        code, output, errors = await _ended(process)
    assert code == 130, errors
    found = _results(tmp_path)
    assert found is not None
    assert found.interrupted
    assert found.runs[0].counts
    assert json.loads(output)["interrupted"] is True
    assert _left_behind(tmp_path) == []


def test_baskets_and_cancellations_are_accounted_for_and_told_in_tables(bench_python: Path, tmp_path: Path) -> None:
    kinds = ("3 lines, one of them a hot product", "one line, 5 % cancelled at once")
    only = [argument for kind in kinds for argument in ("--only", kind)]
    size = ("--rounds", "1", "--seconds", "1", "--connections", "16", "--results", str(tmp_path / "results"))
    done = subprocess.run(
        [bench_python, "-m", "benchmarks.experiments.shop_orders", *size, *only],
        cwd=_ROOT,
        env={**os.environ, "HEADRACE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=_RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    found = _results(tmp_path)
    assert found is not None
    assert sorted(run.variant for run in found.runs) == sorted(kinds)
    assert all(run.counts and run.accepted > 0 for run in found.runs)
    assert all(f"| {kind} |" in done.stdout for kind in kinds)


@pytest.mark.parametrize("program", [["stack", "bench"], ["benchmarks"]])
def test_a_wrong_name_is_refused_at_once_and_told_what_there_is(program: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *program, "--only", "nonsense"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no experiment or contender 'nonsense'" in done.stderr
    for name in ("saturation", "soak", "headrace-bulk", "sync-tuned", "fastapi-celery"):
        assert name in done.stderr
