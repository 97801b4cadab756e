"""Supervision, on small stand-in processes."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stack.errors import HeadraceError
from stack.home.directory import ROOT
from stack.process import child as processes
from stack.process import proc
from stack.process.child import SERVED_S, Process, Spec, back_off
from tests.support.time.conditions import eventually

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS


def spec(tmp_path: Path, code: str, probe: Callable[[], Awaitable[None]] | None = None, **changes: float) -> Spec:
    log = tmp_path / "stand-in.log"

    async def has_printed() -> None:
        assert "up" in log.read_text()

    return Spec(
        name="stand-in",
        argv=[sys.executable, "-c", code],
        log=log,
        probe=probe or has_printed,
        env=dict(os.environ),
        start_timeout_s=changes.get("start_timeout_s", 10),
        stop_grace_s=changes.get("stop_grace_s", 10),
    )


@asynccontextmanager
async def running(what: Spec) -> AsyncIterator[Process]:
    process = Process(what)
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


async def test_what_answers_and_does_no_work_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it has lasted; a fault that passes by itself costs no restart."""
    monkeypatch.setattr(processes, "FAULT_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(processes, "FAULT_PATIENCE_S", 0.2)
    faults: list[str | None] = ["internal error", None, "internal error", None]

    async def fault() -> str | None:
        return faults.pop(0) if faults else lasting[0]

    lasting: list[str | None] = [None]
    async with running(replace(spec(tmp_path, SLEEPS), fault=fault)) as process:
        first = process.pid
        await eventually(lambda: not faults)
        assert process.pid == first
        lasting[0] = "internal error"
        await eventually(lambda: process.restarts == 1)
        lasting[0] = None
        await eventually(lambda: process.state == "ready")
        assert process.pid != first
        assert process.exit_code == -signal.SIGKILL


async def test_a_look_for_faults_that_fails_ends_neither_the_looking_nor_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FAULT_LOOK_EVERY_S", 0.02)
    looks = []

    async def fault() -> str | None:
        looks.append(True)
        raise OSError(errno.EIO, "Input/output error")

    async with running(replace(spec(tmp_path, SLEEPS), fault=fault)) as process:
        await eventually(lambda: len(looks) >= 2)
        pid = process.pid
    assert pid is not None
    assert proc.stat_of(pid) is None


async def test_it_is_started_once_ready_and_stopped(tmp_path: Path) -> None:
    states = []
    process = Process(spec(tmp_path, SLEEPS), lambda: states.append(process.state))
    await process.start()
    assert process.pid
    pid = process.pid
    await process.stop()
    assert list(dict.fromkeys(states)) == ["starting", "ready", "stopping", "stopped"]
    assert process.exit_code == -signal.SIGTERM
    assert proc.stat_of(pid) is None


async def test_a_killed_process_comes_back(tmp_path: Path) -> None:
    async with running(spec(tmp_path, SLEEPS)) as process:
        assert process.pid
        first = process.pid
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: process.restarts == 1 and process.state == "ready")
        assert process.pid != first
        assert process.exit_code == -signal.SIGKILL


def delays(served_s: float | None, *, was_killed: bool, times: int = 8) -> list[float]:
    found = [0.0]
    for _ in range(times):
        found.append(back_off(found[-1], served_s, was_killed=was_killed))
    return found[1:]


def test_one_that_fails_by_itself_before_it_is_ready_waits_longer_each_time() -> None:
    assert delays(None, was_killed=False) == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_one_that_has_served_is_started_again_at_once_however_often_it_was_killed() -> None:
    """A broker that was killed six times within 41 s was back only 38 s after the last time."""
    assert set(delays(1.0, was_killed=True)) == {0.5}
    assert back_off(30.0, 60.0, was_killed=False) == 0.5


def test_one_that_somebody_kills_before_it_is_ready_or_has_just_been_ready_waits_seconds() -> None:
    for served_s, was_killed in ((None, True), (0.1, True), (0.1, False)):
        assert delays(served_s, was_killed=was_killed) == [0.5, 1, 2, 4, 4, 4, 4, 4]
        assert back_off(30.0, served_s, was_killed=was_killed) == 4


async def test_one_that_is_killed_again_and_again_is_back_within_a_second_of_the_last_time(tmp_path: Path) -> None:
    async def ready() -> None:
        """At once."""

    async with running(spec(tmp_path, SLEEPS, ready)) as process:
        for time_ in range(1, 7):
            await asyncio.sleep(SERVED_S)
            assert process.pid
            os.kill(process.pid, signal.SIGKILL)
            await eventually(lambda: process.restarts == time_ and process.state == "ready", 3)  # noqa: B023


async def test_one_that_ends_before_it_is_ready_is_an_error_at_once(tmp_path: Path) -> None:
    what = spec(tmp_path, "import sys; print('no such table', flush=True); sys.exit(7)", probe=_never)
    with pytest.raises(HeadraceError, match="stand-in did not start") as raised:
        await Process(what).start()
    assert "exit code 7" in raised.value.cause
    assert "    | no such table" in raised.value.lines()


async def test_one_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    process = Process(spec(tmp_path, SLEEPS, probe=_never, start_timeout_s=0.3))
    with pytest.raises(HeadraceError, match="did not start") as raised:
        await process.start()
    assert "not yet" in raised.value.cause
    assert process.pid is None


async def test_one_that_ignores_the_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with running(spec(tmp_path, IGNORES_SIGTERM, stop_grace_s=0.2)) as process:
        pass
    assert process.exit_code == -signal.SIGKILL


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    process = Process(spec(tmp_path, SLEEPS, probe=_never))
    starting = asyncio.create_task(process.start())
    await eventually(lambda: process.pid)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert process.pid is None


async def _never() -> None:
    raise ConnectionError("not yet")


# A keeper with three children: one with a session of its own, one whose parent has died, one that ignores SIGTERM.
KEEPER = """
import subprocess, sys
from stack.supervisor.keeper import PR_SET_CHILD_SUBREAPER, prctl, sweep
prctl(PR_SET_CHILD_SUBREAPER, 1)
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.Popen(sleep, start_new_session=True)
subprocess.run(["sh", "-c", 'setsid "$@" & exit 0', "sh", *sleep])
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE).stdout.readline()
print("ready", flush=True)
sys.stdin.readline()
sweep()
print("swept", flush=True)
sys.stdin.readline()
"""


def test_the_keeper_leaves_nothing_below_it_however_detached() -> None:
    command = [sys.executable, "-c", KEEPER]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdin
        assert keeper.stdout
        assert keeper.stdout.readline() == "ready\n"
        assert len(proc.descendants(keeper.pid)) == 3
        keeper.stdin.write("\n")
        keeper.stdin.flush()
        assert keeper.stdout.readline() == "swept\n"
        assert proc.descendants(keeper.pid) == []
        keeper.stdin.close()
