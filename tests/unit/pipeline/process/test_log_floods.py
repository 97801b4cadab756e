"""A flood of one kind of log line is bounded, hides no other kind, and says how many lines were left out."""

import json
import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from pipeline.process.logs.configure import configure, kind_of, render
from pipeline.process.logs.floods import BURST, EVERY_S, Floods
from pipeline.process.logs.sink import MAX_LINE_BYTES, LogSink


def test_the_first_lines_of_a_kind_pass_and_then_one_in_a_while_that_says_how_many_were_left_out() -> None:
    floods = Floods()
    admitted = [floods.admit("kind", second / 100) for second in range(60_00)]
    passed = [it for it in admitted if it is not None]
    assert passed[:BURST] == [0] * BURST
    assert 5 <= len(passed) - BURST <= 60 / EVERY_S
    assert all(900 <= it <= 1000 for it in passed[BURST:])


def test_a_kind_that_comes_now_and_then_is_never_left_out() -> None:
    floods = Floods()
    assert [floods.admit("kind", number * EVERY_S) for number in range(1000)] == [0] * 1000


def test_a_flood_of_one_kind_leaves_the_others_alone() -> None:
    floods = Floods()
    for _ in range(1000):
        floods.admit("flood", 0)
    assert floods.admit("another", 0) == 0


def test_a_flood_that_is_over_is_told_once_although_no_other_line_of_its_kind_comes() -> None:
    floods = Floods()
    for _ in range(BURST + 7):
        floods.admit("kind", 0)
    assert floods.ended(EVERY_S - 1) == []
    assert floods.ended(EVERY_S) == [("kind", 7)]
    assert floods.ended(EVERY_S + 1) == []


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 100)), max_size=300))
def test_every_line_is_written_or_told_as_left_out(asked: list[tuple[int, float]]) -> None:
    """Up to the number of kinds that are remembered."""
    floods, now, passed, told = Floods(), 0.0, 0, 0
    for kind, later in asked:
        now += later
        left_out = floods.admit(kind % 7, now)
        passed, told = passed + (left_out is not None), told + (left_out or 0)
    told += sum(count for _, count in floods.ended(now + EVERY_S))
    assert passed + told == len(asked)


def test_kinds_are_bounded() -> None:
    floods = Floods()
    for kind in range(10_000):
        floods.admit(kind, 0)
    assert len(floods._kinds) <= 1000


def test_a_flood_beside_a_stream_of_kinds_that_are_new_each_time_is_bounded_all_the_same() -> None:
    floods = Floods()
    passed = 0
    for number in range(60_00):
        passed += floods.admit("flood", number / 100) is not None
        floods.admit(number, number / 100)
    assert passed <= BURST + 60 / EVERY_S


def test_a_kind_is_an_event_with_its_level_its_part_and_where_its_exception_is_from() -> None:
    here, there = _raised(1), _raised(2)
    kinds = {
        kind_of("error", {"event": "lost", "part": "consumer", "retry_in_s": 1}),
        kind_of("error", {"event": "lost", "part": "consumer", "retry_in_s": 2}),
        kind_of("error", {"event": "lost", "part": "publisher"}),
        kind_of("warning", {"event": "lost", "part": "consumer"}),
        kind_of("error", {"event": "unhandled", "exc_info": here}),
        kind_of("error", {"event": "unhandled", "exc_info": (type(here), here, here.__traceback__)}),
        kind_of("error", {"event": "unhandled", "exc_info": there}),
    }
    assert len(kinds) == 5


def _raised(how: int) -> Exception:
    try:
        if how == 1:
            raise ValueError
        raise ValueError
    except ValueError as error:
        return error


# ── as processes have it


@pytest.fixture
def configured() -> Iterator[int]:
    """What a process logs can be read here."""
    before = structlog.get_config()
    handlers, level, raises = logging.root.handlers[:], logging.root.level, logging.raiseExceptions
    reading, writing = os.pipe()
    sink = LogSink(writing)
    configure("a_service", "info", sink)
    _sinks.append(sink)
    yield reading
    logging.captureWarnings(False)
    logging.root.handlers, logging.raiseExceptions = handlers, raises
    logging.root.setLevel(level)
    structlog.configure(**before)
    # `writing` stays open: the sink's thread lives on, and would write to the next file that gets its number.


_sinks: list[LogSink] = []


def read(reading: int) -> list[dict[str, object]]:
    assert _sinks[-1].flush()
    return [json.loads(line) for line in os.read(reading, 1_000_000).decode().splitlines()]


def test_a_flood_of_ours_and_one_of_a_library_are_bounded(configured: int) -> None:
    log, library = structlog.get_logger(), logging.getLogger("library")
    for number in range(1000):
        log.warning("the database refuses", number=number)
        library.error("connection %d lost", number)
    lines = read(configured)
    assert len(lines) == 2 * BURST
    assert lines[1]["event"] == "connection 0 lost"
    assert lines[1]["logger"] == "library"


def test_a_line_begins_with_its_time_and_level(configured: int) -> None:
    structlog.get_logger().info("said", order_id="x")
    (line,) = read(configured)
    assert list(line) == ["timestamp", "level", "event", "order_id", "service"]


@pytest.mark.parametrize("value", [2**80, "\ud800", float("nan"), {1: 2}, object(), {"deep": [1, (2, 3)]}])
def test_a_line_is_json_whatever_it_holds(value: object) -> None:
    json.loads(render({"event": "said", "value": value}))


@pytest.mark.parametrize("value", ["x" * 1_000_000, "🏭" * 100_000, ["x" * 1000] * 1000, {"body": b"x" * 1_000_000}])
def test_a_long_line_is_cut_and_still_json(value: object) -> None:
    line = render({"event": "said", "value": value, "order_id": "7"})
    assert len(line.encode()) <= MAX_LINE_BYTES
    assert json.loads(line)["order_id"] == "7"
