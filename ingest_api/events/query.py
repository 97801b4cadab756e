"""What a request for events asks for: from where on, which of them, how many, and how long to wait."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias
from urllib.parse import urlencode

from starlette.datastructures import URL

from database.event_ring import FollowedEvent
from pipeline.contract.order_events import EventType, InvalidCursor, decode_cursor, encode_cursor
from web.access.clients import Client
from web.problems import problems
from web.problems.problems import FieldError
from web.requests.ids import canonical_id
from web.requests.moments import LIKE, moment_in
from web.requests.paging import or_error, parse_limit
from web.requests.waits import parse_wait

DEFAULT_LIMIT, MAX_LIMIT = 100, 1_000
NOW: Literal["now"] = "now"

_NO_PLACE = f"after must be the cursor of an event, now, or {LIKE}."


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a log: everything behind `offset` is still to be read."""

    log_id: int
    offset: int

    @property
    def cursor(self) -> str:
        return encode_cursor(self.log_id, self.offset)


After: TypeAlias = Position | datetime | Literal["now"] | None
"""Where to begin; None: with the first event of the log."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a client gets: those that it asks for, of those that it may see."""

    owner: str | None
    """None: those of all clients."""
    types: frozenset[str] | None
    product_id: str | None

    @property
    def is_everything(self) -> bool:
        return self.owner is None and self.types is None and self.product_id is None

    def of(self, events: Sequence[FollowedEvent]) -> Sequence[FollowedEvent]:
        if self.is_everything:
            return events
        return [it for it in events if self._takes(it)]

    def _takes(self, it: FollowedEvent) -> bool:
        return (self.owner is None or it.client == self.owner) and it.is_of(self.types, self.product_id)


@dataclass(frozen=True, slots=True)
class EventQuery:
    after: After
    types: frozenset[str] | None
    product_id: str | None
    limit: int
    wait_s: float

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "EventQuery":
        """Raises Problem (422) with all faults."""
        errors: list[FieldError] = []
        it = cls(
            or_error(parse_after, query.get("after"), None, errors),
            or_error(_parse_types, query.get("types"), None, errors),
            or_error(_parse_product, query.get("product"), None, errors),
            or_error(_parse_limit, query.get("limit"), DEFAULT_LIMIT, errors),
            or_error(parse_wait, query.get("wait"), 0.0, errors),
        )
        if errors:
            raise problems.invalid_values(errors)
        return it

    def selection(self, client: Client) -> Selection:
        return Selection(None if client.sees_all else client.name, self.types, self.product_id)


def parse_after(text: str | None) -> After:
    """Raises Problem (422)."""
    if text is None or text == NOW:
        return None if text is None else NOW
    with suppress(InvalidCursor, UnicodeEncodeError):
        return Position(*decode_cursor(text))
    if (moment := moment_in(text)) is None:
        raise problems.invalid_parameter("after", _NO_PLACE)
    return moment


def _parse_types(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    types = text.split(",")
    if not all(it in list(EventType) for it in types):
        known = ", ".join(EventType)
        raise problems.invalid_parameter("types", f"types must be one or more of {known}, with commas between.")
    return frozenset(types)


def _parse_product(text: str | None) -> str | None:
    if text is None:
        return None
    if (found := canonical_id(text)) is None:
        raise problems.invalid_parameter("product", "product must be the id of a product, a UUID.")
    return found


def _parse_limit(text: str | None) -> int:
    return parse_limit(text, DEFAULT_LIMIT, MAX_LIMIT)


def next_link(url: URL, query: Mapping[str, str], cursor: str) -> str:
    """The Link header (RFC 8288) to what follows, asked for in the same way. `query`: of a request that was taken."""
    parameters = {**query, "after": cursor}
    return f'<{url.path}?{urlencode(parameters, safe=",=")}>; rel="next"'
