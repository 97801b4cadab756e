"""Checks what `./headrace hooks` is given: URLs, types, ids, and places in the event log. Pure."""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.contract.hook_urls import InvalidUrl, parse_hook_url
from pipeline.contract.hooks import SECRET_BYTES, SECRET_PREFIX
from pipeline.contract.order_events import EventType, InvalidCursor, decode_cursor
from stack.errors import HeadraceError
from stack.operate.moments import before, parse

EXAMPLE = "./headrace hooks add https://shop.example/events --types order.processed,order.failed"
LIST = "./headrace hooks list"
REPLAY = "./headrace hooks replay ID --since 2h"
NOW = "now"
"""As a cursor: the end of the log."""

MOST_OF_A_REASON = 500
LEAST_OF_AN_ID = 4

_ID = re.compile(rf"[0-9a-f-]{{{LEAST_OF_AN_ID},36}}")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the log: after an event, or at a time. Without either, the end."""

    log_id: int | None = None
    offset: int = 0
    """Of the last event that lies before the place. Only with `log_id`."""
    since: datetime | timedelta | None = None
    """A time, or how long ago by the database's clock: the log's times are of that one."""


def check_url(url: str) -> None:
    """Raise HeadraceError unless event_relay can send to the URL. Whether it may is decided by event_relay."""
    try:
        parse_hook_url(url)
    except InvalidUrl as error:
        raise HeadraceError(f"{url[:80]!r} is not a URL to send to", str(error), EXAMPLE) from None


def chosen_types(text: str | None) -> list[str] | None:
    """The types of `a,b`, without duplicates, in their usual order. None: all. Raises HeadraceError."""
    if text is None:
        return None
    named = {it.strip() for it in text.split(",")}
    if unknown := sorted(named - {it.value for it in EventType}):
        known = ", ".join(EventType)
        raise HeadraceError(f"there is no event of type {unknown[0][:80]!r}", f"there are {known}", EXAMPLE)
    return [it.value for it in EventType if it.value in named]


def check_id(text: str) -> str:
    """The beginning of an id, in lower case. Raises HeadraceError if it cannot be one."""
    prefix = text.strip().lower()
    if not _ID.fullmatch(prefix):
        cause = f"an id is the first column of the list; its first {LEAST_OF_AN_ID} characters or more will do"
        raise HeadraceError(f"{text[:80]!r} is not the id of a hook", cause, LIST)
    return prefix


def check_reason(text: str) -> str:
    """The reason of a pause, without blanks around it. Raises HeadraceError."""
    reason = text.strip()
    if not reason or len(reason) > MOST_OF_A_REASON or not reason.isprintable():
        cause = f"the reason is shown in the list: 1 to {MOST_OF_A_REASON} characters, in one line"
        raise HeadraceError("--reason is unusable", cause, './headrace hooks pause ID --reason "they migrate today"')
    return reason


def place_of(after: str | None, since: str | None, fix: str) -> Place | None:
    """The place that --after or --since names; None if neither is given. Raises HeadraceError."""
    if after is not None and since is not None:
        raise HeadraceError("both --after and --since are given", "each names a place in the log", f"pass one: {fix}")
    if since is not None:
        return Place(since=parse(since, fix))
    return None if after is None else _after(after, fix)


def _after(cursor: str, fix: str) -> Place:
    if cursor == NOW:
        return Place()
    try:
        log_id, offset = decode_cursor(cursor)
    except InvalidCursor:
        cause = f"a cursor is the member `cursor` of an event, or `{NOW}` for the end of the log"
        raise HeadraceError(f"{cursor[:80]!r} is not a cursor", cause, fix) from None
    return Place(log_id, offset)


def check_place(place: Place, log_id: int, last_offset: int) -> None:
    """Raise HeadraceError for a cursor that is not of this log, which ends with `last_offset`."""
    if place.log_id is not None and place.log_id != log_id:
        cause = "every database has its own log, and this one has been replaced, or the cursor is of another"
        raise HeadraceError("the cursor is of another log", cause, f"begin at a time: {REPLAY}")
    if place.offset > last_offset:
        cause = f"the log ends with event {last_offset:,}: the database was restored from before the cursor's event"
        raise HeadraceError("the cursor is beyond the end of the log", cause, f"begin at a time: {REPLAY}")


def moment_of(since: datetime | timedelta, now: datetime) -> datetime:
    """The moment that `since` means. `now`: by the database's clock. Raises HeadraceError if it is still to come."""
    if isinstance(since, timedelta):
        return before(now, since)
    if since > now:
        cause = f"by the database's clock it is {now:%Y-%m-%dT%H:%M:%SZ}; without an offset, a time is UTC"
        raise HeadraceError(f"--since {since.isoformat()} is in the future", cause, f"pass an earlier time: {REPLAY}")
    return since


def new_secret() -> str:
    """A new secret, as Standard Webhooks writes it."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
