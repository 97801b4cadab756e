"""How far the clock of this process is from PostgreSQL's, which all processes share.

Nothing rests on it: ids only grow, and the order of verdicts is that of the queue. But times in rows, answers and logs
of two processes do not compare when their clocks are apart, and neither does what is measured between them.
"""

import asyncio
import contextlib
import time

import asyncpg
import structlog

from database.sessions import Pool, PooledConnection, StoreUnavailable, reading
from pipeline.process import metrics

log = structlog.get_logger()

# Machines that keep their time are milliseconds apart.
APART_S = 2.0
# For a process that asks PostgreSQL nothing else from time to time.
_COMPARE_EVERY_S = 5.0
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


def skew_s(asked_at: float, took_s: float, theirs: float) -> float:
    """Seconds that our clock is ahead of theirs, at least: 0 if the answer took so long that nothing is known.

    `asked_at`, `theirs`: Unix seconds of the two clocks. `took_s`: from the question to the answer; their clock was
    read somewhere in between.
    """
    earliest, latest = asked_at - theirs, asked_at + took_s - theirs
    if earliest <= 0 <= latest:
        return 0.0
    return earliest if earliest > 0 else latest


# ── I/O below


class ClockWatch:
    """Compares, and says when the clocks are apart and when they no longer are."""

    def __init__(self) -> None:
        self._are_apart = False

    async def compare(
        self, connection: "asyncpg.Connection[asyncpg.Record] | PooledConnection", timeout_s: float | None = None
    ) -> None:
        """Ask PostgreSQL for its time. Raises what the connection raises: it is as good a sign of life as any."""
        asked_at, began = time.time(), time.monotonic()
        theirs: float = await connection.fetchval(_NOW, timeout=timeout_s)
        self.compared(skew_s(asked_at, time.monotonic() - began, theirs))

    def compared(self, ahead_s: float) -> None:
        metrics.CLOCK_SKEW.set(ahead_s)
        if (are_apart := abs(ahead_s) > APART_S) == self._are_apart:
            return
        self._are_apart = are_apart
        if are_apart:
            log.warning("the clock of this process and PostgreSQL's are apart", ahead_s=round(ahead_s, 1))
        else:
            log.info("the clock of this process and PostgreSQL's agree again")


async def watch_clock(pool: Pool, timeout_s: float) -> None:
    """Compare from time to time, until cancelled. That PostgreSQL is away is for others to say."""
    clock = ClockWatch()
    while True:
        with contextlib.suppress(StoreUnavailable):
            async with reading(pool, timeout_s) as connection:
                await clock.compare(connection)
        await asyncio.sleep(_COMPARE_EVERY_S)
