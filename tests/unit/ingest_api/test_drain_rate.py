"""Retry-After: what is waiting at the measured rate; an outage lasts as long again; spread, and within 1 to 30 s."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.intake.drain_rate import DrainRate, retry_after_s


def test_nothing_is_known_before_the_first_confirm() -> None:
    assert DrainRate().wait_s(20_000, 100.0) == 0


def test_what_waits_takes_its_time_at_the_measured_rate() -> None:
    rate = DrainRate()
    for second in range(5):
        rate.confirmed(1_000, since=second, now=second + 1)
    assert rate.wait_s(20_000, 5.0) == pytest.approx(20)


def test_idle_time_is_no_slowness() -> None:
    rate = DrainRate(window_s=10_000)
    for hour in (0, 3_600, 7_200):
        rate.confirmed(500, since=hour, now=hour + 0.1)
    assert rate.wait_s(5_000, 7_300) == pytest.approx(1)


def test_messages_in_flight_together_share_their_time() -> None:
    rate = DrainRate()
    rate.confirmed(500, since=0.0, now=1.0)
    rate.confirmed(500, since=0.0, now=1.0)
    rate.confirmed(500, since=0.5, now=1.5)
    assert rate.wait_s(1_000, 1.5) == pytest.approx(1)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate = DrainRate(window_s=5)
    rate.confirmed(1_000, since=0, now=1)
    for second in range(10, 20):
        rate.confirmed(10, since=second, now=second + 1)
    assert rate.wait_s(100, 20) == pytest.approx(10)


def test_an_outage_is_guessed_to_last_as_long_again_until_something_is_confirmed() -> None:
    rate = DrainRate()
    rate.confirmed(1_000, since=0, now=1)
    rate.failed(since=10)
    rate.failed(since=12)
    assert rate.wait_s(0, 10) == 0
    assert rate.wait_s(0, 17) == 7
    assert rate.wait_s(15_000, 17) == 15
    rate.confirmed(1_000, since=20, now=21)
    assert rate.wait_s(1_000, 30) == pytest.approx(1)


def test_what_was_sent_before_the_last_confirm_began_no_outage_before_it() -> None:
    rate = DrainRate()
    rate.confirmed(1, since=1, now=5)
    rate.failed(since=2)
    assert rate.wait_s(0, 9) == 4


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 5), st.floats(0, 100)), max_size=200))
def test_the_sums_never_drift_below_what_is_held(messages: list[tuple[int, float, float]]) -> None:
    rate, now = DrainRate(window_s=3), 0.0
    for orders, took_s, pause_s in messages:
        now += pause_s + took_s
        rate.confirmed(orders, since=now - took_s, now=now)
        assert -1e-6 < rate.wait_s(1_000, now) < 1_000 * 6


@pytest.mark.parametrize(
    ("wait_s", "soonest", "latest"),
    [(0, 1, 2), (0.2, 1, 2), (1, 1, 2), (1.1, 2, 3), (4, 4, 6), (19.5, 20, 30), (20, 20, 30), (1e9, 20, 30)],
)
def test_retry_after_is_spread_over_half_as_long_again(wait_s: float, soonest: int, latest: int) -> None:
    told = {retry_after_s(wait_s) for _ in range(1_000)}
    assert told == set(range(soonest, latest + 1))
