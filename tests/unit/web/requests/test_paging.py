"""Pages of a list: limits and cursors."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.data.problems import pointer_of
from web.problems.problems import Problem
from web.requests.paging import Cursor, parse_limit

ORDER_ID = "01a20267-97ad-8199-a6a6-540000cf26ec"


@pytest.mark.parametrize(("text", "limit"), [(None, 50), ("1", 1), ("050", 50), ("500", 500)])
def test_a_limit_in_bounds_is_taken(text: str | None, limit: int) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "0", "501", "-1", "+1", "1.0", " 1", "1_0", "x", "\u0663", "9" * 5000])
def test_any_other_limit_is_422(text: str) -> None:
    with pytest.raises(Problem) as raised:
        parse_limit(text)
    assert (raised.value.status, pointer_of(raised.value)) == (422, "?limit")


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_comes_back_as_it_went(accepted_at: datetime, order_id: object) -> None:
    cursor = Cursor(accepted_at, str(order_id))
    text = cursor.encode()
    assert Cursor.decode(text) == cursor
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def _cursor_text(content: str) -> str:
    return urlsafe_b64encode(content.encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "\u00e9",
        "%00",
        "=" * 10,
        _cursor_text(""),
        _cursor_text(ORDER_ID),
        _cursor_text(f"yesterday {ORDER_ID}"),
        _cursor_text("2026-01-01T00:00:00+00:00 1"),
        _cursor_text(f"2026-01-01T00:00:00+00:00 {ORDER_ID} more"),
        # PostgreSQL cannot be asked for these: they are in no time zone, or in UTC beyond what Python can count.
        _cursor_text(f"2026-01-01T00:00:00 {ORDER_ID}"),
        _cursor_text(f"0001-01-01T00:00:00+14:00 {ORDER_ID}"),
        _cursor_text(f"9999-12-31T23:59:59-14:00 {ORDER_ID}"),
    ],
)
def test_any_other_cursor_is_422(text: str) -> None:
    with pytest.raises(Problem) as raised:
        Cursor.decode(text)
    assert (raised.value.status, pointer_of(raised.value)) == (422, "?before")


@given(st.text() | st.binary().map(lambda content: urlsafe_b64encode(content).decode()))
@example("\ud800")
def test_random_text_is_a_cursor_or_a_problem(text: str) -> None:
    try:
        cursor = Cursor.decode(text)
    except Problem:
        return
    assert cursor.at.utcoffset() is not None


def test_a_cursor_is_in_utc_whatever_it_was_written_in() -> None:
    zone = timezone(timedelta(hours=2))
    moment = datetime(2026, 1, 1, 2, tzinfo=zone)
    assert Cursor.decode(Cursor(moment, ORDER_ID).encode()).at.tzinfo is UTC
