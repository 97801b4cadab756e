"""What follows an attempt: every status, and Retry-After in every form."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_relay.retry import LAST_RETRY_S, Again, Answer, Delivered, Pause, next_step, retry_after_s

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def after(status: int | None, failures: int = 0, retry_after: str | None = None) -> object:
    return next_step(Answer(status, 0.1, retry_after=retry_after), failures, NOW)


def wait_s(status: int | None, failures: int = 0, retry_after: str | None = None) -> float:
    step = after(status, failures, retry_after)
    assert isinstance(step, Again)
    return step.after_s


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_delivered(status: int) -> None:
    assert after(status) == Delivered()


def test_410_pauses_and_says_why() -> None:
    step = after(410, retry_after="5")
    assert isinstance(step, Pause)
    assert "410" in step.reason


@pytest.mark.parametrize("status", [None, 100, 199, 300, 301, 307, 400, 401, 404, 413, 429, 500, 502, 503, 599])
def test_everything_else_is_tried_again_for_ever_and_at_least_once_an_hour(status: int | None) -> None:
    for failures in (0, 1, 5, 11, 12, 100, 10**6):
        assert 0.5 <= wait_s(status, failures) <= LAST_RETRY_S
    assert max(wait_s(status, 10**6) for _ in range(50)) > LAST_RETRY_S / 2


def test_the_wait_doubles_and_is_jittered() -> None:
    for failures in range(11):
        waits = [wait_s(500, failures) for _ in range(50)]
        assert all(2**failures / 2 <= it <= 2**failures for it in waits)
        assert len({round(it, 6) for it in waits}) > 10


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_and_never_undercut(status: int) -> None:
    for _ in range(20):
        assert 120 <= wait_s(status, 0, "120") <= 132
    in_a_minute = format_datetime(NOW + timedelta(seconds=60), usegmt=True)
    assert 60 <= wait_s(status, 0, in_a_minute) <= 66


@pytest.mark.parametrize("text", ["99999999999999999999", "31536000", "Fri, 31 Dec 2099 23:59:59 GMT"])
def test_retry_after_is_bounded(text: str) -> None:
    assert wait_s(503, 0, text) <= 3600 * 1.1


@pytest.mark.parametrize(
    "text", ["0", "", "-5", "soon", "1.5", "٣", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 99 Foo 2", "\x00"]
)
def test_a_retry_after_that_says_nothing_is_not_obeyed(text: str) -> None:
    assert 0.5 <= wait_s(429, 0, text) <= 1.0


def test_retry_after_of_other_statuses_is_not_obeyed() -> None:
    assert wait_s(500, 0, "120") <= 1.0


@given(st.text(max_size=40))
def test_no_retry_after_raises(text: str) -> None:
    found = retry_after_s(text, NOW)
    assert found is None or found >= 0
