"""When throughput is taken to be back."""

import pytest

from tests.chaos.account.recovery import back_s, histogram, per_s, worst


def at(rate: int, since: float, until: float) -> list[float]:
    return [since + number / rate for number in range(int((until - since) * rate))]


def test_the_mean_is_of_whole_slices() -> None:
    assert per_s(histogram(at(100, 0, 10)), 2, 8) == pytest.approx(100)
    assert per_s(histogram([]), 2, 2) == 0


def test_what_never_stopped_is_back_at_once() -> None:
    assert back_s(histogram(at(100, 0, 20)), 100, 10, 20) == 0


def test_it_is_back_when_a_steady_pace_begins() -> None:
    found = histogram([*at(100, 0, 10), *at(100, 14, 20)])
    assert back_s(found, 100, 10, 20) == pytest.approx(4, abs=0.2)


def test_less_than_nine_tenths_is_not_back() -> None:
    assert back_s(histogram([*at(100, 0, 10), *at(85, 10, 30)]), 100, 10, 30) is None
    assert back_s(histogram([*at(100, 0, 10), *at(95, 10, 30)]), 100, 10, 30) is not None


def test_one_burst_is_no_throughput() -> None:
    assert back_s(histogram([12.0] * 5_000), 100, 10, 20) is None


def test_of_several_recoveries_the_longest_counts_and_one_that_never_came_is_never() -> None:
    names = ("accepted", "decided")
    measured = [{"accepted": 3.0, "decided": 0.5}, {"accepted": 1.0, "decided": 2.0}]
    assert worst(measured, names) == {"accepted": 3.0, "decided": 2.0}
    assert worst([{"accepted": None, "decided": 1.0}, *measured], names) == {"accepted": None, "decided": 2.0}
    assert worst([], names) == {"accepted": None, "decided": None}


def test_what_has_not_lasted_yet_is_not_back() -> None:
    assert back_s(histogram(at(100, 10, 12)), 100, 10, 12) is None
