"""Parses the times of the command line: a date and time, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from stack.errors import HeadraceError

_AGO = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, example: str) -> datetime:
    """`parse`, with an age taken from this machine's clock."""
    given = parse(text, example)
    return before(datetime.now(UTC), given) if isinstance(given, timedelta) else given


def parse(text: str, example: str) -> datetime | timedelta:
    """Parse an ISO 8601 date and time (UTC if it has no zone), or an age: 90s, 15m, 2h, 7d.

    `example`: a command with a time, for the error. Raises HeadraceError.
    """
    if ago := _AGO.fullmatch(text):
        return timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        cause = "a time is 2026-01-31T09:00 (UTC) or 2026-01-31T09:00+01:00, or an age such as 15m, 2h or 7d"
        raise HeadraceError(f"{text[:80]!r} is not a time", cause, example) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def before(now: datetime, ago: timedelta) -> datetime:
    """The moment so long before `now`, but never before the calendar begins."""
    try:
        return now - ago
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
