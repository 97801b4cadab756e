"""Reads pages of the event log: what a client may see of it, within bounds of what a page costs."""

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from database.event_ring import FollowedEvent, Page
from database.log_follower import LogFollower, OtherLog
from database.sessions import StoreUnavailable
from ingest_api.events.query import After, Position, Selection
from pipeline.process.breaker import Breaker
from pipeline.process.turns import Turns
from web.problems import problems

# Events that one page may pass in search of those that match, and how long that may take. Then the page ends, and its
# `next` goes on. So a client with one order in a million asks often, instead of one request that lasts.
_MAX_PASSED, _MAX_S = 10_000, 0.2
# Events in one query. To decode them holds up other requests for some 5 ms.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events that match, in the order of the log."""

    events: list[FollowedEvent]
    upto: Position
    """Up to there the log has been searched."""
    is_end: bool
    """Whether the log ends there for now."""


class EventReader:
    """Raises Problem (410) if the log is not the one of the client's cursor, StoreUnavailable, or Busy."""

    def __init__(self, log: LogFollower, turns: Turns) -> None:
        """`turns`: at the connections that `log` reads old events with."""
        self._log, self._turns = log, turns
        self._breaker = Breaker("postgresql for events")

    async def begin(self, after: After) -> Position:
        """The position of an `after`."""
        if isinstance(after, Position):
            if not await self._log.has(after.log_id, after.offset):
                raise problems.cursor_unknown()
            return after
        if isinstance(after, datetime):
            end = await self._log.end_at(after)
            return Position(end.log_id, end.last_offset)
        end = await self._log.now()
        return Position(end.log_id, end.last_offset if after else 0)

    async def page(self, position: Position, selection: Selection, asker: str, limit: int) -> EventPage:
        """At most `limit` events behind `position`. `asker`: the client's name."""
        found: list[FollowedEvent] = []
        after, until = position.offset, asyncio.get_running_loop().time() + _MAX_S
        while True:
            room = limit - len(found)
            page = await self._read(
                position, after, min(room, _AT_ONCE) if selection.is_everything else _AT_ONCE, asker
            )
            matching = selection.of(page.events)
            found += matching[:room]
            is_end, after = page.upto == after or page.upto >= (self._log.last_offset or 0), page.upto
            if len(matching) > room:
                return EventPage(found, Position(position.log_id, found[-1].offset), is_end=False)
            is_spent = after - position.offset >= _MAX_PASSED or asyncio.get_running_loop().time() > until
            if is_end or is_spent or len(found) == limit:
                return EventPage(found, Position(position.log_id, after), is_end)

    def following(self) -> AbstractContextManager[None]:
        """Within the block, new events are held for `page`, as they come."""
        return self._log.following()

    async def wait(self, position: Position, seconds: float) -> None:
        """Wait until the log goes on behind `position`, or is no longer the same."""
        await self._log.wait_beyond(position.offset, seconds)

    async def _read(self, position: Position, after: int, limit: int, asker: str) -> Page:
        if self._log.log_id not in (None, position.log_id):
            raise problems.cursor_unknown()
        if self._log.holds(after):
            return await self._log.read(after, limit)
        async with self._turns.turn(asker):
            return await self._query(after, limit)

    async def _query(self, after: int, limit: int) -> Page:
        if not self._breaker.may_try():
            raise StoreUnavailable("PostgreSQL did not answer a moment ago")
        try:
            page = await self._log.read(after, limit)
        except StoreUnavailable as error:
            self._breaker.failed(error)
            raise
        except OtherLog:
            raise problems.cursor_unknown() from None
        self._breaker.worked()
        return page
