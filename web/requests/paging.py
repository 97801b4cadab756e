"""Keyset pagination, newest first: a page begins below the last row of the one before.

Unlike OFFSET, it costs the same on every page, and rows that arrive meanwhile shift nothing.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import URL
from starlette.requests import Request

from web.problems import problems
from web.problems.problems import FieldError, Problem

T = TypeVar("T")

DEFAULT_LIMIT, MAX_LIMIT = 50, 500


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
        """The page that the query parameters `before` and `limit` ask for. Raises Problem (422) with all faults."""
        errors: list[FieldError] = []
        page = cls.read(request.query_params, errors)
        if errors:
            raise problems.invalid_values(errors)
        return page

    @classmethod
    def read(cls, query: Mapping[str, str], errors: list[FieldError]) -> "Page":
        """As `of`, for an operation with more parameters. Adds the faults to `errors`."""
        before = or_error(_parse_before, query.get("before"), _FIRST_PAGE, errors)
        limit = or_error(parse_limit, query.get("limit"), DEFAULT_LIMIT, errors)
        return cls(before, limit)

    @property
    def one_more(self) -> int:
        """How many rows to fetch: the one that is not shown tells whether there is a next page."""
        return self.limit + 1

    @property
    def is_default(self) -> bool:
        """Whether this is the page that a request without parameters gets."""
        return self.before == _FIRST_PAGE and self.limit == DEFAULT_LIMIT

    def cut(self, rows: Sequence[T], url: URL, cursor: Callable[[T], Cursor]) -> tuple[Sequence[T], dict[str, str]]:
        """The rows to show of `one_more`, and the headers: a Link if there are more rows. `url`: the request's."""
        shown = rows[: self.limit]
        return shown, self.links(url, self.last(rows, cursor))

    def last(self, rows: Sequence[T], cursor: Callable[[T], Cursor]) -> str:
        """The encoded cursor of the last row shown of `one_more`; "" if there are no more rows."""
        return cursor(rows[self.limit - 1]).encode() if len(rows) > self.limit else ""

    def links(self, url: URL, last: str, query: Mapping[str, str] | None = None) -> dict[str, str]:
        """The Link header (RFC 8288) to the page below `last`, relative to this one; none if there is no such page.
        `query`: the request's, if it has more parameters than a page.
        """
        parameters = urlencode({**(query or {}), "limit": self.limit, "before": last})
        return {"Link": f'<{url.path}?{parameters}>; rel="next"'} if last else {}


def parse_limit(text: str | None, default: int = DEFAULT_LIMIT, most: int = MAX_LIMIT) -> int:
    """The `limit` of a query. Raises Problem (422)."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise problems.invalid_parameter("limit", f"limit must be a number from 1 to {most}.")
    return int(text)


def _parse_before(text: str | None) -> Cursor:
    return Cursor.decode(text) if text else _FIRST_PAGE


def or_error(parse: Callable[[str | None], T], text: str | None, otherwise: T, errors: list[FieldError]) -> T:
    """The parsed parameter; or `otherwise`, after adding the parser's errors to `errors`."""
    try:
        return parse(text)
    except Problem as problem:
        errors += problem.errors
        return otherwise


def _in_utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("no time zone")
    return at.astimezone(UTC)
