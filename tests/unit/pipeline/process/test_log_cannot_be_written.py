"""No log line can stop work, however little of it can be written. A background part that ends ends its process."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.process.lifecycle import _EXIT_BUG
from pipeline.process.logs.sink import MAX_LINE_BYTES, MAX_WAITING_BYTES, LineStream, LogSink
from tests.support.services.logging_process import ROUNDS

_ROOT = Path(__file__).parents[4]
_TIMEOUT_S = 60


def run_part(part: str, stderr: int | None) -> subprocess.CompletedProcess[bytes]:
    """tests.support.services.logging_process with standard error on that descriptor; None: with none at all."""
    command = [sys.executable, "-m", "tests.support.services.logging_process", part]
    if stderr is None:
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    return subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=stderr, timeout=_TIMEOUT_S, check=False)


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def nobody_reads() -> int:
    reading, writing = os.pipe()
    _kept.append(reading)
    return writing


def nobody_reads_and_it_does_not_block() -> int:
    writing = nobody_reads()
    os.set_blocking(writing, False)
    return writing


def reader_is_gone() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def no_standard_error() -> None:
    """As with `2>&-`: the first file or socket that the process opens would get the number 2."""


_kept: list[int] = []
BROKEN = (full_disk, nobody_reads, nobody_reads_and_it_does_not_block, reader_is_gone, no_standard_error)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_log_that_cannot_be_written_stops_no_work_and_no_signal(broken: Any) -> None:
    """P9, P12: the part goes on, the event loop is not held up, SIGTERM is obeyed, and the exit code is 0."""
    ended = run_part("logs", broken())
    assert ended.returncode == 0, ended.stdout
    told = json.loads(ended.stdout)
    assert told["rounds"] >= ROUNDS
    assert told["late_s"] < 1
    assert "unrenderable" not in told["dropped"]
    if broken is not no_standard_error:  # that is /dev/null now
        # Lines that come faster than the writing thread is scheduled are "stuck", also where each write fails at once.
        causes = ["unwritable", "stuck"] if broken in (full_disk, reader_is_gone) else ["stuck"]
        assert told["dropped"][causes[0]] > 0
        assert sum(told["dropped"].get(cause, 0) for cause in causes) > 100


@pytest.mark.parametrize("stderr", [subprocess.DEVNULL, full_disk, nobody_reads])
@pytest.mark.parametrize("part", ["returns", "fails", "is_cancelled_by_a_library"])
def test_a_background_part_that_ends_takes_its_process_down_whatever_the_log_does(part: str, stderr: Any) -> None:
    assert run_part(part, stderr() if callable(stderr) else stderr).returncode == _EXIT_BUG


@pytest.mark.parametrize(
    ("part", "words"),
    [("returns", "a part that has no end has ended"), ("fails", "ConnectionError"), ("returns", '"part":"returns"')],
)
def test_why_the_process_ends_is_told(part: str, words: str) -> None:
    ended = run_part(part, subprocess.STDOUT)
    assert words in ended.stdout.decode()


# ── the sink


def make_sink(fd: int) -> LogSink:
    return LogSink(fd, lambda count, why: f"{count} dropped: {why}")


def test_how_many_lines_were_dropped_is_told_when_lines_can_be_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    sink = make_sink(writing)
    with monkeypatch.context() as full:
        full.setattr(os, "write", _disk_full)
        for number in range(7):
            sink.put(f"lost {number}")
        assert sink.flush()
    sink.put("kept")
    assert sink.flush()
    lines = os.read(reading, 10_000).decode().splitlines()
    assert lines == ["7 dropped: OSError: No space left on device", "kept"]


def test_dropped_lines_are_told_also_when_no_other_line_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    sink = make_sink(writing)
    with monkeypatch.context() as full:
        full.setattr(os, "write", _disk_full)
        sink.put("lost")
        assert sink.flush()
    assert os.read(reading, 10_000) == b"1 dropped: OSError: No space left on device\n"


def test_half_a_line_is_ended_before_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk took a part of it. What follows is a line of its own again, which a reader can decode."""
    reading, writing = os.pipe()
    write, sink = os.write, make_sink(writing)

    def writes_a_part(fd: int, data: bytes) -> int:
        if len(data) > 4:
            return write(fd, data[:4])
        return _disk_full(fd, data)

    with monkeypatch.context() as full:
        full.setattr(os, "write", writes_a_part)
        sink.put("torn up")
        assert sink.flush()
    sink.put("whole")
    assert sink.flush()
    assert os.read(reading, 10_000).decode().splitlines() == [
        "torn", "1 dropped: OSError: No space left on device", "whole",
    ]  # fmt: skip


def test_lines_that_nobody_reads_are_bounded_and_the_rest_is_counted_and_told() -> None:
    reading, writing = os.pipe()
    sink = make_sink(writing)
    for _ in range(2000):
        sink.put("x" * 1000)
    assert not sink.flush(0.1)
    read = bytearray()

    def read_all() -> None:
        while more := os.read(reading, 100_000):
            read.extend(more)

    reader = threading.Thread(target=read_all)
    reader.start()
    assert sink.flush(10)
    os.close(writing)
    reader.join(10)
    kept = read.count(b"x\n")
    assert MAX_WAITING_BYTES * 0.8 < kept * 1000 < MAX_WAITING_BYTES * 1.2
    # One line says it, or two: the first may be written while lines still come.
    assert sum(map(int, re.findall(r"(\d+) dropped", read.decode()))) == 2000 - kept


def test_a_line_that_logs_while_it_is_put_is_no_deadlock() -> None:
    """A garbage collection or a signal within a log call may log as well."""
    reading, writing = os.pipe()
    sink = make_sink(writing)
    with sink._lock:
        sink.put("within")
    assert sink.flush()
    assert os.read(reading, 100) == b"within\n"


def test_a_line_that_is_too_long_is_cut_between_two_characters() -> None:
    reading, writing = os.pipe()
    sink = make_sink(writing)
    sink.put("x" + "€" * MAX_LINE_BYTES)
    assert sink.flush()
    line = os.read(reading, 2 * MAX_LINE_BYTES).decode()
    assert MAX_LINE_BYTES - 3 < len(line.encode()) <= MAX_LINE_BYTES + 1


def test_what_is_printed_is_written_line_by_line() -> None:
    reading, writing = os.pipe()
    sink = make_sink(writing)
    stream = LineStream(sink)
    print("one", 2, file=stream)
    print("three\nfour \udcff", file=stream)
    assert sink.flush()
    assert os.read(reading, 100) == b"one 2\nthree\nfour \\udcff\n"


def _disk_full(fd: int, data: bytes) -> int:
    raise OSError(28, "No space left on device")
