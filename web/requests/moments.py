"""Times as clients write them: RFC 3339."""

import re
from datetime import UTC, datetime

# RFC 3339, section 5.6. `datetime.fromisoformat` accepts more.
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
LIKE = "a time like 2026-01-05T09:30:00Z. In a query, write + as %2B"
"""What a moment looks like, for a problem."""


def moment_in(text: str) -> datetime | None:
    """The moment, in UTC; None if the text is none, or none that UTC can count."""
    if not _MOMENT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
