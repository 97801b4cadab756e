"""How far a clock is from another one that takes a while to ask."""

import pytest
from structlog.testing import capture_logs

from database.clock import ClockWatch, skew_s


@pytest.mark.parametrize(
    ("asked_at", "took_s", "theirs", "ahead_s"),
    [
        (100.0, 0.0, 100.0, 0.0),
        (100.0, 0.2, 100.1, 0.0),
        (100.0, 60.0, 130.0, 0.0),  # an answer that took a minute says nothing below a minute
        (3700.0, 0.2, 100.0, 3600.0),
        (100.0, 0.5, 3700.0, -3599.5),
    ],
)
def test_what_the_way_of_the_answer_may_explain_is_no_skew(
    asked_at: float, took_s: float, theirs: float, ahead_s: float
) -> None:
    assert skew_s(asked_at, took_s, theirs) == pytest.approx(ahead_s)


def test_clocks_that_are_apart_are_told_once_and_once_when_they_agree_again() -> None:
    watch = ClockWatch()
    with capture_logs() as logs:
        for ahead_s in (0.0, 1.9, -3600.0, -3600.1, 3600.0, 0.5, 0.0):
            watch.compared(ahead_s)
    assert [(it["event"], it.get("ahead_s")) for it in logs] == [
        ("the clock of this process and PostgreSQL's are apart", -3600.0),
        ("the clock of this process and PostgreSQL's agree again", None),
    ]
