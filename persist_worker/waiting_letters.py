"""Counts the dead letters that wait for an operator, so that an alert clears once they are replayed or discarded."""

import asyncio
import time
from collections.abc import Mapping

from database.connection import Connection, Database
from database.dead_letters import count_waiting
from pipeline.process import metrics

# The count stops here: that letters wait matters more than how many.
LIMIT = 10_000
_INTERVAL_S = 15.0
_LONGEST_INTERVAL_S = 300.0
# A count of 100,000 waiting letters stops early, after 5 to 17 ms. It reads every discarded letter: 160 ms for 100,000
# of them among a million replayed ones. So a count that takes longer comes less often, and costs 1 ms a second.
_REST_FACTOR = 1_000


def rest_s(took_s: float) -> float:
    """How long to wait after a count that took this long."""
    return min(_LONGEST_INTERVAL_S, max(_INTERVAL_S, _REST_FACTOR * took_s))


# ── I/O below


async def count_waiting_letters(database: Database) -> None:
    """Count again and again, until cancelled. While the database is away, the last count stands."""
    rest = 0.0

    async def count(connection: Connection) -> None:
        nonlocal rest
        began = time.monotonic()
        _tell(await count_waiting(connection, LIMIT))
        rest = rest_s(time.monotonic() - began)

    while True:
        rest = _INTERVAL_S
        await database.try_once(count)
        await asyncio.sleep(rest)


def _tell(waiting: Mapping[tuple[str, str], int]) -> None:
    metrics.DEAD_LETTERS_WAITING.clear()  # the letters of some reasons may all be gone
    for (stage, reason), letters in waiting.items():
        metrics.DEAD_LETTERS_WAITING.labels(stage, reason).set(letters)
