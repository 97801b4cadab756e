"""How the steps of a benchmark are worked off: a failure is a row, and what there is no time for is said."""

from pathlib import Path
from typing import cast

import pytest
from aiormq.exceptions import ChannelClosed

from benchmarks.contenders.contender import Contender
from benchmarks.report.results import Percentiles, decode
from benchmarks.run.deployment import ContenderFailed
from benchmarks.run.measure import Place
from benchmarks.run.plan import Progress, Report, Step, as_time, in_words, reason_of
from benchmarks.run.servers import Servers
from tests.support.data.bench_results import a_run, some_results

_NO_SERVERS = cast("Servers", None)


def step(name: str, error: Exception | None = None, seconds: float = 1.0) -> Step:
    contender = Contender(name, name, "", "", parts=())

    async def run(_: Servers, report: Report) -> None:
        report(a_run(name))
        if error:
            raise error

    return Step(Place("saturation", 1), contender, "closed 256", seconds, run)


def progress(directory: Path, budget_s: float | None = None) -> Progress:
    return Progress(some_results(), directory / "results.json", budget_s)


async def test_a_step_that_fails_is_a_row_and_the_next_ones_turn(tmp_path: Path) -> None:
    doing = progress(tmp_path)
    await doing.work_off([step("first", ContenderFailed("it died")), step("second")], _NO_SERVERS)
    assert [(run.contender, run.failed) for run in doing.results.runs] == [
        ("first", None),
        ("first", "it died"),
        ("second", None),
    ]


async def test_a_bug_of_ours_ends_the_run_and_what_was_measured_is_on_disk(tmp_path: Path) -> None:
    doing = progress(tmp_path)
    with pytest.raises(ZeroDivisionError):
        await doing.work_off([step("first", ZeroDivisionError()), step("second")], _NO_SERVERS)
    assert [run.contender for run in decode((tmp_path / "results.json").read_bytes()).runs] == ["first"]


async def test_what_there_is_no_time_for_is_left_out_and_said(tmp_path: Path) -> None:
    doing = progress(tmp_path, budget_s=60)
    await doing.work_off([step("long", seconds=100), step("short", seconds=1)], _NO_SERVERS)
    assert [run.contender for run in doing.results.runs] == ["short"]
    (skipped,) = doing.results.skipped
    assert skipped.what == "saturation #1: long, closed 256"
    assert skipped.reason.startswith("no time: it takes about 100 s")


def test_what_task_groups_wrap_is_the_failure_that_it_was() -> None:
    closed = ChannelClosed(404, "gone")
    assert reason_of(ExceptionGroup("", [ExceptionGroup("", [closed]), TimeoutError()])) == str(closed)
    assert reason_of(TimeoutError()) == "TimeoutError"
    assert reason_of(ExceptionGroup("", [TimeoutError(), ZeroDivisionError()])) is None


def test_one_line_tells_all_that_is_wrong_with_a_run() -> None:
    run = a_run(latency_ms=Percentiles(1.0, 2.0, 3.0, 4.0), errors=5, generator_bound=True, void="1 lost", drain_s=2.0)
    for words in ("1,000 orders/s", "p99 3.0 ms", "drained 2.0 s after", "5 errors", "GENERATOR-BOUND", "VOID: 1 lost"):
        assert words in in_words(run)
    assert in_words(a_run(failed="it died")) == "FAILED: it died"


def test_time_is_told_in_minutes_and_seconds() -> None:
    assert (as_time(61.4), as_time(-1)) == ("1:01", "0:00")
