"""Follows the event log for a whole process: one connection, one query for all that wait for new events.

product_consumer, and each process that parks orders, sends NOTIFY. Then the follower numbers what is committed, reads
the new events once, encodes each once, and keeps the newest in a ring. A reader at the tail of the log is served from
the ring; one that is further behind reads from PostgreSQL, through a pool, until it has caught up. A notification may
be lost with the process that owed it, so the follower looks once a second without one.

While nobody follows, the follower reads no events. It numbers them at most four times a second, and at least once.

Every two seconds the server is asked whether it still takes writes: one that has become a standby sends no
notifications. If it does not take writes, or does not answer, a new connection is made.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial

import asyncpg
import structlog

from database import event_log
from database.channels import VERDICTS
from database.connection import Connection
from database.event_log import LogEnd, LoggedEvent
from database.event_ring import EventRing, FollowedEvent, Page
from database.faults import Fault, describe, fault_of
from database.sessions import Pool, check_writable, count_fault, listening, reading
from pipeline.cache.single_flight import SingleFlight
from pipeline.process import metrics
from pipeline.process.backoff import backoff_s
from pipeline.process.coroutines import set_within
from pipeline.process.health import Health

log = structlog.get_logger()

_POLL_EVERY_S = 1.0
# So that a fault is reported within 5 s, a deadline of 2 s included.
_CHECK_EVERY_S = 2.0
# A reader of pages comes back after each. Without this, its next page would come from PostgreSQL.
_KEEP_S = 10.0
# Between two looks while nobody follows. A look costs the process and PostgreSQL some 0.3 ms of CPU, and at full load
# fifty batches a second are decided.
_IDLE_INTERVAL_S = 0.25
# Events that are read and encoded in one go: they hold up other work of the process for some 5 ms.
_AT_ONCE = 500
# A call of number() then does a sixteenth of its usual work, in sixteen times the time: 300 batches in 32 s. PostgreSQL
# ends a statement after 60 s.
_NUMBER_SLOWEST = 16
# Of the ring: 10,000 events are two seconds of full load, and take some 8 MB.
_MAX_EVENTS, _MAX_BYTES = 10_000, 16 * 1024**2


class OtherLog(Exception):
    """PostgreSQL has another log, or an older one, than this process has followed: somebody restored the database."""


class LogFollower:
    """Never raises for faults of PostgreSQL while it runs: readers wait meanwhile, or read what the ring holds."""

    def __init__(
        self,
        database_url: str,
        health: Health,
        part: str,
        *,
        pool: Pool,
        timeout_s: float,
        min_interval_s: float,
    ) -> None:
        """`part`: of `health`, up while the follower is connected. `pool`: for what lies behind the ring. `timeout_s`:
        for PostgreSQL to answer. `min_interval_s`: between two looks, so that many small batches cost few of them.
        """
        self._url, self._health, self._part = database_url, health, part
        self._pool, self._timeout_s, self._min_interval_s = pool, timeout_s, min_interval_s
        self._end: LogEnd | None = None
        self._ring = EventRing(_MAX_EVENTS, _MAX_BYTES)
        self._is_reading = False
        """Whether the ring is kept up to date."""
        self._followers, self._keep_until = 0, 0.0
        self._is_notified, self._poll_at, self._look_at, self._check_at = False, 0.0, 0.0, 0.0
        self._number_slower = 1
        self._awake, self._moved = asyncio.Event(), asyncio.Event()
        self._flights: SingleFlight[Page] = SingleFlight()

    @property
    def log_id(self) -> int | None:
        """Of the log; None until PostgreSQL has been reached for the first time."""
        return self._end.log_id if self._end else None

    @property
    def last_offset(self) -> int | None:
        """The end of the log, as far as it has been followed. None until it is first known. It falls if somebody
        restores the database.
        """
        return self._end.last_offset if self._end else None

    @contextmanager
    def following(self) -> Iterator[None]:
        """Within the block, new events are read as they come."""
        self._followers += 1
        self._awake.set()
        try:
            yield
        finally:
            self._followers -= 1
            self._keep_until = asyncio.get_running_loop().time() + _KEEP_S

    async def wait_beyond(self, offset: int, timeout_s: float) -> int:
        """Wait until the log goes on behind `offset`, for `timeout_s` at most. Returns where it ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (self.last_offset or 0) <= offset:
                    await self._moved.wait()
        return self.last_offset or 0

    def holds(self, after: int) -> bool:
        """Whether `read` needs no query."""
        return self._end is not None and self._ring.reaches(after) and self._ring.upto >= self._end.last_offset

    async def read(self, after: int, limit: int) -> Page:
        """At most `limit` events behind the offset `after`; none if the log ends there.

        Raises StoreUnavailable; or OtherLog, also if the log ends before `after`. Concurrent reads of the same events
        from PostgreSQL share one query.
        """
        if self.holds(after):
            return self._ring.read(after, limit)
        return await self._flights.run(f"{after} {limit}", partial(self._query, after, limit))

    async def end_at(self, moment: datetime) -> LogEnd:
        """The end of the log at `moment`: everything that was committed then or later lies behind it; some earlier
        events may, too. Raises StoreUnavailable.
        """
        async with reading(self._pool, self._timeout_s) as connection:
            return await event_log.end_at(connection, moment)

    async def now(self) -> LogEnd:
        """The end of the log: everything behind it is still to come. Raises StoreUnavailable."""
        if self._end is not None and self._health.is_up(self._part):
            return self._end
        return await self._ask_end()

    async def has(self, log_id: int, offset: int) -> bool:
        """Whether the log is this one, and reaches to this offset, which another process may have seen before this one.
        Raises StoreUnavailable.
        """
        known = self._end
        if known is None or known.log_id != log_id or known.last_offset < offset:
            known = await self._ask_end()
        return known.log_id == log_id and known.last_offset >= offset

    async def run(self) -> None:
        """Follow, until cancelled."""
        failed = 0
        while True:
            try:
                async with listening(
                    self._url,
                    f"{self._health.service} events",
                    VERDICTS,
                    self._on_notification,
                    self._awake.set,
                    timeout_s=self._timeout_s,
                ) as connection:
                    self._poll_at = 0.0  # what was committed before this was told to nobody
                    failed = 0
                    while True:
                        await self._round(connection, await self._turn(connection))
            except Exception as error:
                if fault_of(error) is not Fault.PASSING:
                    raise
                count_fault(error)
                self._health.down(self._part, f"PostgreSQL: {describe(error)}")
                log.warning("not following the event log", error=describe(error))
            await asyncio.sleep(backoff_s(failed, last_s=_POLL_EVERY_S))
            failed += 1

    async def _turn(self, connection: Connection) -> str:
        """Wait until it is time to look; returns why. Raises ConnectionError if the connection is lost, and what
        `check_writable` raises.
        """
        loop = asyncio.get_running_loop()
        while not connection.is_closed():
            if loop.time() >= self._check_at:
                self._check_at = loop.time() + _CHECK_EVERY_S
                await check_writable(connection)
            if self._wants_to_begin():
                return "poll"
            due_at = self._look_at if self._is_notified else self._poll_at
            if (rest_s := due_at - loop.time()) <= 0:
                return "notification" if self._is_notified else "poll"
            self._awake.clear()
            await set_within(min(rest_s, _CHECK_EVERY_S), self._awake)
        raise ConnectionError("the connection was lost")

    async def _round(self, connection: Connection, because: str) -> None:
        """Number and read what is new."""
        loop = asyncio.get_running_loop()
        began, self._poll_at, self._is_notified = loop.time(), loop.time() + _POLL_EVERY_S, False
        metrics.EVENT_LOG_ROUNDS.labels(because).inc()
        end = await self._number(connection)
        if not _continues(self._end, end):
            log.warning("the event log is another one; was the database restored?", log_id=end.log_id)
            self._is_reading = False
        if self._is_reading and self._is_wanted():
            await self._read_up_to(connection, end)
        else:
            self._is_reading = self._is_wanted()
            self._ring.begin(end.last_offset)
            self._move(end)
        self._health.up(self._part)
        interval_s = self._min_interval_s if self._is_wanted() else _IDLE_INTERVAL_S
        self._look_at = began + interval_s
        await asyncio.sleep(began + self._min_interval_s - loop.time())

    async def _number(self, connection: Connection) -> LogEnd:
        """Number what waits. After a call that missed its deadline, the next one does half as much in twice the time,
        so that no backlog is too large for ever.
        """
        try:
            end = await event_log.number(
                connection,
                event_log.NUMBER_AT_ONCE // self._number_slower,
                timeout_s=self._timeout_s * self._number_slower,
            )
        except (TimeoutError, asyncpg.QueryCanceledError):
            self._number_slower = min(self._number_slower * 2, _NUMBER_SLOWEST)
            raise
        self._number_slower = max(self._number_slower // 2, 1)
        return end

    async def _read_up_to(self, connection: Connection, end: LogEnd) -> None:
        while self._ring.upto < end.last_offset:
            upto = min(self._ring.upto + _AT_ONCE, end.last_offset)
            logged = await event_log.read(connection, end.log_id, self._ring.upto, upto)
            metrics.EVENT_LAG_SECONDS.observe_since(it.event.at for it in logged)
            self._ring.append(_page(logged, upto))
            self._move(LogEnd(end.log_id, upto))
            await asyncio.sleep(0)

    def _move(self, end: LogEnd) -> None:
        """Tell all that wait where the log ends now."""
        if end == self._end:
            return
        self._end = end
        metrics.EVENT_LOG_OFFSET.set(end.last_offset)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _is_wanted(self) -> bool:
        return self._followers > 0 or asyncio.get_running_loop().time() < self._keep_until

    def _wants_to_begin(self) -> bool:
        return not self._is_reading and self._is_wanted()

    async def _ask_end(self) -> LogEnd:
        async with reading(self._pool, self._timeout_s) as connection:
            return await event_log.end(connection)

    async def _query(self, after: int, limit: int, is_second: bool) -> Page:
        if is_second and self.holds(after):
            return self._ring.read(after, limit)
        known = self._end
        async with reading(self._pool, self._timeout_s) as connection:
            end = await event_log.end(connection)
            if not _continues(known, end) or end.last_offset < after:
                raise OtherLog
            upto = min(after + limit, end.last_offset)
            return _page(await event_log.read(connection, end.log_id, after, upto), upto)

    def _on_notification(self) -> None:
        self._is_notified = True
        self._awake.set()


def _continues(known: LogEnd | None, end: LogEnd) -> bool:
    """Whether `end` is of the log whose end was `known`."""
    return known is None or (end.log_id == known.log_id and end.last_offset >= known.last_offset)


def _page(logged: Sequence[LoggedEvent], upto: int) -> Page:
    return Page([FollowedEvent.of(it) for it in logged], upto)
