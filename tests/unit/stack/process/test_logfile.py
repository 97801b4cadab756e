"""Log files stay bounded, and lose nothing that is still being written."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from stack.home.directory import Home
from stack.process import logfile
from stack.process.logfile import ROTATE_BYTES, cut_back, open_log
from tests.support.brokers.broker import running_task
from tests.support.time.conditions import eventually


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


def test_a_big_log_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("wb") as file:
        file.truncate(ROTATE_BYTES + 1)
    open_log(log).close()
    assert log.stat().st_size == 0
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert (tmp_path / "x.log.1").exists()


def test_a_log_is_cut_back_while_somebody_writes_to_it(tmp_path: Path) -> None:
    """All of it is in the two files, in order, but for what a writer that never pauses writes as the log is emptied.

    A copy can see the half of a write: then it ends with the beginning of the next number.
    """
    log, lines = tmp_path / "x.log", 30_000
    program = f"for number in range({lines}): print(number, flush=True)"
    with open_log(log) as output, subprocess.Popen([sys.executable, "-c", program], stdout=output) as writer:
        kept: list[str] = []
        while writer.poll() is None:
            if log.stat().st_size > 20_000:
                cut_back(log)
                kept += _whole_lines(log.with_suffix(".log.1").read_text())
        kept += log.read_text().split()
    numbers = [int(it) for it in kept]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == lines - 1
    assert len(numbers) > lines / 2
    assert sorted(tmp_path.iterdir()) == [log, log.with_suffix(".log.1")]
    assert stat.S_IMODE(log.with_suffix(".log.1").stat().st_mode) == 0o600


def _whole_lines(text: str) -> list[str]:
    whole, _, torn = text.rpartition("\n")
    numbers = whole.split()
    assert str(int(numbers[-1]) + 1).startswith(torn)
    return numbers


def test_without_room_for_a_copy_a_log_is_bounded_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    (log := tmp_path / "x.log").write_text("much")
    cut_back(log)
    assert log.read_text() == ""
    assert list(tmp_path.iterdir()) == [log]


def test_a_log_that_is_opened_while_it_is_cut_back_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a service that dies and is started again meanwhile."""
    monkeypatch.setattr(logfile, "ROTATE_BYTES", 1000)
    (log := tmp_path / "x.log").write_text("much " * 1000)
    copy = shutil.copyfileobj

    def copy_and_open(source: IO[bytes], target: IO[bytes], length: int) -> None:
        copy(source, target, length)
        opened.append(open_log(log))

    opened: list[IO[bytes]] = []
    monkeypatch.setattr("shutil.copyfileobj", copy_and_open)
    cut_back(log)
    with opened[0] as file:
        file.write(b"more")
    assert log.read_text() == "more"
    assert log.with_suffix(".log.1").read_text() == "much " * 1000


def test_a_log_that_is_set_aside_as_its_cutting_back_begins_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "ROTATE_BYTES", 1000)
    (log := tmp_path / "x.log").write_text("much " * 1000)
    flock = fcntl.flock

    def set_aside(file: IO[bytes], operation: int) -> None:
        monkeypatch.undo()
        log.replace(log.with_suffix(".log.1"))
        log.write_text("more")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", set_aside)
    cut_back(log)
    assert log.read_text() == "more"
    assert log.with_suffix(".log.1").read_text() == "much " * 1000


async def test_logs_are_looked_after_whatever_happens_to_one_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "LOOK_EVERY_S", 0.01)
    failing = [RuntimeError("can't start new thread")]

    def cut_back_or_fail(path: Path) -> None:
        if failing:
            raise failing.pop()
        cut_back(path)

    monkeypatch.setattr(logfile, "cut_back", cut_back_or_fail)
    with (log := tmp_path / "x.log").open("wb") as file:
        file.truncate(ROTATE_BYTES + 1)
    async with running_task(logfile.keep_bounded(tmp_path)):
        await eventually(lambda: log.stat().st_size == 0)


def test_who_follows_the_logs_is_shown_what_comes_after_they_were_cut_back(tmp_path: Path) -> None:
    """And nothing of what was done once, like an installation."""
    home = Home(tmp_path / "home")
    home.create()
    home.log("ingest_api").write_text("before\n")
    home.log("venv").write_text("pip\n")
    command = [sys.executable, "-m", "stack", "logs", "-f"]
    environment = {**os.environ, "HEADRACE_HOME": str(home.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as following:
        assert following.stdout
        shown = _read_until(following.stdout, b"before")
        cut_back(home.log("ingest_api"))
        with open_log(home.log("ingest_api")) as file:
            file.write(b"after\n")
        shown += _read_until(following.stdout, b"after")
        following.kill()
    assert b"pip" not in shown


def _read_until(stream: IO[bytes], words: bytes) -> bytes:
    shown = b""
    while words not in shown:
        more = os.read(stream.fileno(), 10_000)
        assert more, shown
        shown += more
    return shown
