"""Clock skew between this process and PostgreSQL, whose clock all processes share.

Correctness does not depend on clocks: ids only grow, and verdicts follow the order of the queue. But when clocks are
apart, times in rows, answers and logs of two processes do not compare, nor do durations measured between them.
"""

import asyncio
import contextlib
import time

import asyncpg
import structlog

from database.sessions import Pool, PooledConnection, StoreUnavailable, reading
from pipeline.process import metrics

log = structlog.get_logger()

# Synchronised machines are milliseconds apart.
APART_S = 2.0
# For ingest_api, which has no periodic query of its own. The others compare whenever they ping PostgreSQL.
_COMPARE_EVERY_S = 5.0
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


def skew_s(asked_at: float, took_s: float, theirs: float) -> float:
    """The least number of seconds that our clock is ahead of theirs, negative if behind; 0 if both may be right.

    `asked_at`, `theirs`: Unix seconds of the two clocks. `took_s`: from question to answer; their clock was read
    somewhere in between.
    """
    earliest, latest = asked_at - theirs, asked_at + took_s - theirs
    if earliest <= 0 <= latest:
        return 0.0
    return earliest if earliest > 0 else latest


# ── I/O below


class ClockWatch:
    """Measures the skew, and logs when the clocks drift apart and when they agree again."""

    def __init__(self) -> None:
        self._are_apart = False

    async def compare(
        self, connection: "asyncpg.Connection[asyncpg.Record] | PooledConnection", timeout_s: float | None = None
    ) -> None:
        """Ask PostgreSQL for its time. Raises what the connection raises, so it also serves as a liveness check."""
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
    """Compare every few seconds until cancelled. Ignores outages of PostgreSQL: other parts report them."""
    clock = ClockWatch()
    while True:
        with contextlib.suppress(StoreUnavailable):
            async with reading(pool, timeout_s) as connection:
                await clock.compare(connection)
        await asyncio.sleep(_COMPARE_EVERY_S)
