"""Progress lines of the migrations: one when a revision begins and ends, and one every few seconds in between."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from database.faults import describe, fault_of
from database.sessions import open_session

TELL_EVERY_S = 5.0
_LOOK_TIMEOUT_S = 3.0

_BLOCKERS = """
    SELECT pid, application_name, usename, state FROM pg_stat_activity
    WHERE pid = ANY(pg_blocking_pids($1)) ORDER BY pid
"""


def tell(text: str) -> None:
    """Print a line of progress, unbuffered: an operator may be waiting for it."""
    print(f"migrations: {text}", file=sys.stderr, flush=True)


def name_of(session: asyncpg.Record) -> str:
    """Name a session of pg_stat_activity so that an operator finds it. Most roles cannot see what others run."""
    role, program = session["usename"] or "an unknown role", session["application_name"] or "no application_name"
    state = f", {session['state']}" if session["state"] else ""
    return f"session {session['pid']} ({program}, {role}{state})"


@asynccontextmanager
async def telling(database_url: str, pid: int, doing: str) -> AsyncIterator[None]:
    """Within the block, print every few seconds that `doing` goes on, and which sessions block session `pid`."""
    beat = asyncio.create_task(_beat(database_url, pid, doing))
    try:
        yield
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)


async def _beat(database_url: str, pid: int, doing: str) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        tell(f"{doing} for {time.monotonic() - began:.0f} s{await _in_the_way(database_url, pid)}")


async def _in_the_way(database_url: str, pid: int) -> str:
    """The sessions that block `pid`, in words. Asks over another connection: ours waits for its own statement."""
    try:
        async with asyncio.timeout(2 * _LOOK_TIMEOUT_S):
            connection = await open_session(
                database_url, "headrace migrations", timeout_s=_LOOK_TIMEOUT_S, command_timeout_s=_LOOK_TIMEOUT_S
            )
            try:
                sessions = await connection.fetch(_BLOCKERS, pid)
            finally:
                connection.terminate()
    except Exception as error:
        if fault_of(error) is None:
            raise
        return f"; PostgreSQL does not say why: {describe(error)}"
    return f", behind {' and '.join(map(name_of, sessions))}" if sessions else ""
