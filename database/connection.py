"""A worker's dedicated PostgreSQL connection: opened on demand, dropped on any doubt, retried until it works."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias, TypeVar

import asyncpg
import structlog

from database.clock import ClockWatch
from database.faults import Fault, describe, fault_of
from database.sessions import check_writable, count_fault, open_session
from pipeline.process import backoff, metrics
from pipeline.process.backoff import wait_to_retry
from pipeline.process.health import Health

log = structlog.get_logger()

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

PART = "database"

_CONNECT_TIMEOUT_S = 5.0
# Longer than a checkpoint on a slow disk delays a commit; far below the broker's 30 minutes for an unacked delivery.
_COMMAND_TIMEOUT_S = 60.0
_CLOSE_TIMEOUT_S = 2.0
# How stale readiness may be while no batch uses the database.
_PING_INTERVAL_S = 1.0
_PING_TIMEOUT_S = 4.0
# Bounded lower than others, so that a server that works again is used within 5 s.
backoff_s = partial(backoff.backoff_s, last_s=3.0)


class Database:
    """Runs one batch at a time on the connection; `watch` keeps it alive between batches."""

    def __init__(
        self,
        database_url: str,
        health: Health,
        prepare: Callable[[Connection], Awaitable[None]],
        stop: asyncio.Event | None = None,
    ) -> None:
        """`prepare`: runs on every new connection, for temporary tables. `stop`: once set, nothing is retried."""
        self._url, self._health, self._prepare = database_url, health, prepare
        self._stop = stop or asyncio.Event()
        self._connection: Connection | None = None
        self._in_use = asyncio.Lock()
        self._clock = ClockWatch()

    async def until_it_works(self, work: Callable[[Connection], Awaitable[T]], queue: str) -> T:
        """Run `work`, retrying with backoff while it fails for reasons that are not its own. Returns its result.

        `work` must be safe to repeat: a commit whose answer was lost may have happened. Raises DATA faults and bugs,
        and Abandoned if it fails while the process is stopping.
        """
        attempt = 0
        async with self._in_use:
            while True:
                try:
                    result = await self._attempt(work, queue)
                    self._health.up(PART)
                    return result
                except Exception as error:
                    if fault_of(error) in (None, Fault.DATA):
                        raise
                    await self._hold(error, attempt, queue)
                    attempt += 1

    async def watch(self) -> None:
        """Keep the connection up and readiness true between batches, until cancelled. A batch reports its own state."""
        failed = 0
        while True:
            failed = 0 if await self.ping() else failed + 1
            await asyncio.sleep(backoff_s(failed - 1) if failed else _PING_INTERVAL_S)

    async def ping(self) -> bool:
        """Connect if needed, check that the server takes writes, compare clocks, and update health."""

        async def ask(connection: Connection) -> None:
            await check_writable(connection)
            await self._clock.compare(connection)

        return await self.try_once(ask)

    async def notify(self, channel: str) -> bool:
        """NOTIFY the listeners of `channel`. A hint: False means it was not sent, and has no other consequence.

        It is a statement of its own, for 0.15 ms a batch (p50). Inside the batch's transaction it would cost nothing
        measurable. But PostgreSQL commits notifying transactions one at a time, across all databases, so this one would
        hold the others up for its fsync.
        """
        return await self.try_once(lambda connection: connection.execute(f"NOTIFY {channel}"))

    async def try_once(self, work: Callable[[Connection], Awaitable[object]]) -> bool:
        """Run `work`, for 4 s at most. Returns False if the database cannot be used; health says why. Raises bugs."""
        async with self._in_use:
            try:
                async with asyncio.timeout(_PING_TIMEOUT_S):
                    await work(await self._connect())
            except Exception as error:
                if fault_of(error) is None:
                    raise
                log.warning("database not usable", error=describe(error))
                self._give_up(error)
                return False
            self._health.up(PART)
            return True

    async def close(self) -> None:
        """Close the connection, abruptly if the server does not answer: nothing is in hand any more."""
        if self._connection is None:
            return
        try:
            await self._connection.close(timeout=_CLOSE_TIMEOUT_S)
        except Exception as error:
            if fault_of(error) is None:
                raise
            log.info("database connection did not close cleanly", error=describe(error))

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]], queue: str) -> T:
        """Make one attempt, which ends at once when cancelled. If it takes long, health says what it waits for.

        asyncpg answers a cancellation within a transaction with a ROLLBACK. On a silent server, that takes as long as
        any command. Then its error replaces the cancellation, and looks like a fault to retry.
        """
        attempt = asyncio.ensure_future(self._work(work))
        try:
            with self._health.waiting(
                PART, f"PostgreSQL to take a batch of {queue} (is it frozen, or a table locked?)"
            ):
                return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._hang_up()
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
            raise

    async def _work(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await work(await self._connect())

    async def _connect(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await open_session(
                self._url,
                self._health.service,
                timeout_s=_CONNECT_TIMEOUT_S,
                command_timeout_s=_COMMAND_TIMEOUT_S,
            )
            await self._prepare(self._connection)
        return self._connection

    async def _hold(self, error: Exception, attempt: int, queue: str) -> None:
        wait_s = backoff_s(attempt)
        metrics.BATCH_RETRIES.labels(queue, getattr(error, "sqlstate", None) or type(error).__name__).inc()
        log.error(
            "database fault; holding the batch",
            error=describe(error),
            attempt=attempt,
            retry_in_s=round(wait_s, 2),
        )
        self._give_up(error)
        await wait_to_retry(self._stop, wait_s)

    def _give_up(self, error: Exception) -> None:
        count_fault(error)
        self._health.down(PART, f"PostgreSQL: {describe(error)}")
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
