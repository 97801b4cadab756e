"""What the command line takes for a time."""

from datetime import UTC, datetime, timedelta

import pytest

from stack.errors import HeadraceError
from stack.operate.moments import moment

EXAMPLE = "./headrace dead list --since 2h"


def test_a_time_is_iso_8601_or_how_long_ago() -> None:
    expected = datetime(2026, 1, 31, 9, tzinfo=UTC)
    for text in ("2026-01-31T09:00", "2026-01-31T09:00Z", "2026-01-31T10:00+01:00", "2026-01-31 09:00:00.0"):
        assert moment(text, EXAMPLE) == expected
    assert moment("2026-01-31", EXAMPLE) == datetime(2026, 1, 31, tzinfo=UTC)
    for text, ago in (("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)):
        given = moment(text, EXAMPLE)
        assert timedelta(0) <= datetime.now(UTC) - timedelta(seconds=ago) - given < timedelta(seconds=10)
    assert moment("999999999d", EXAMPLE).year == 1


@pytest.mark.parametrize("text", ["", "yesterday", "2 h", "-2h", "2026-13-01", "1e3s", "2hh"])
def test_what_is_no_time_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(HeadraceError, match="is not a time") as raised:
        moment(text, EXAMPLE)
    assert raised.value.fix == EXAMPLE
