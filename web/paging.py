"""Pages of a list that is ordered newest first, by keyset: a page begins below the last row of the one before.

Unlike OFFSET, that costs the same on every page, and rows that arrive meanwhile shift nothing.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from starlette.datastructures import URL
from starlette.requests import Request

from web import problems

T = TypeVar("T")

_DEFAULT_LIMIT, _MAX_LIMIT = 50, 500


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page: its time, and its id, which breaks ties."""

    at: datetime
    id: str

    def encode(self) -> str:
        return base64.urlsafe_b64encode(f"{self.at.isoformat()} {self.id}".encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Raises Problem (422)."""
        try:
            at, row_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().split(" ")
            return cls(_in_utc(datetime.fromisoformat(at)), str(UUID(row_id)))
        except (ValueError, OverflowError, binascii.Error):
            raise problems.invalid_parameter("before", "before must come from the Link of a page, unchanged.") from None


_FIRST_PAGE = Cursor(datetime(9999, 1, 1, tzinfo=UTC), "ffffffff-ffff-ffff-ffff-ffffffffffff")


@dataclass(frozen=True, slots=True)
class Page:
    """What a request asks for: at most `limit` rows below `before`."""

    before: Cursor
    limit: int

    @classmethod
    def of(cls, request: Request) -> "Page":
        """From the query parameters `before` and `limit`. Raises Problem (422)."""
        before = request.query_params.get("before")
        return cls(Cursor.decode(before) if before else _FIRST_PAGE, parse_limit(request.query_params.get("limit")))

    @property
    def one_more(self) -> int:
        """How many rows to fetch: one that is not shown says whether there is a next page."""
        return self.limit + 1

    def cut(self, rows: Sequence[T], url: URL, cursor: Callable[[T], Cursor]) -> tuple[Sequence[T], dict[str, str]]:
        """What to show of `one_more` rows, and the headers: a Link if there are more of them. `url`: the request's."""
        if len(rows) <= self.limit:
            return rows, {}
        shown = rows[: self.limit]
        return shown, {"Link": self._link_to_next(url, cursor(shown[-1]))}

    def _link_to_next(self, url: URL, last: Cursor) -> str:
        """The value of a Link header (RFC 8288) for the page below `last`, relative to this one."""
        return f'<{url.path}?limit={self.limit}&before={last.encode()}>; rel="next"'


def parse_limit(text: str | None) -> int:
    """Raises Problem (422)."""
    if text is None:
        return _DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= _MAX_LIMIT):
        raise problems.invalid_parameter("limit", f"limit must be a number from 1 to {_MAX_LIMIT}.")
    return int(text)


def _in_utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("no time zone")
    return at.astimezone(UTC)
