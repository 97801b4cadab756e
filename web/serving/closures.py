"""Counts connections that the server closed on its clients, by reason, and logs one line a minute.

Thousands of slow clients are one event, not thousands of lines.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

import structlog

from pipeline.process import metrics

log = structlog.get_logger()

# The first line waits this long, so that a burst is one line; then there is at most one a minute.
_GATHER_S = 1.0
_TELL_EVERY_S = 60.0


class Closed(StrEnum):
    """Why a connection was closed on its client."""

    HEAD_DEADLINE = "head_deadline"
    """The head of a request was not complete in time."""
    BODY_DEADLINE = "body_deadline"
    """The body of a request was not complete in time."""
    UNREAD = "unread"
    """The client did not read its answer."""
    ROOM = "room"
    """It was idle or unfinished for the longest when another connection came and all places were taken."""
    SURPLUS = "surplus"
    """It came when requests in hand took all places."""


class Closures:
    """Counts closed connections and logs them. For one event loop at a time."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = -_TELL_EVERY_S
        self.describe: Callable[[], dict[str, int]] = dict
        """Fields that the line adds: how many connections there are."""

    def note(self, why: Closed) -> None:
        metrics.CONNECTIONS_CLOSED.labels(why).inc()
        self._counts[why] += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + _GATHER_S, self._told_at + _TELL_EVERY_S), self._tell)

    def _tell(self) -> None:
        self._timer, self._told_at = None, asyncio.get_running_loop().time()
        counts, self._counts = self._counts, Counter()
        log.warning(
            "closed connections of slow or surplus clients",
            **{str(why): count for why, count in counts.items()},
            **self.describe(),
        )


closures = Closures()
"""The closures of this process."""
