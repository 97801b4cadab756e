"""Connections that were closed on their clients: counted by reason, and told in one line a minute.

Thousands of slow clients are one event, not thousands of lines.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

import structlog

from pipeline.process import metrics

log = structlog.get_logger()

# After the first of them, so that a burst is one line; then at most so often.
_GATHER_S = 1.0
_TELL_EVERY_S = 60.0


class Closed(StrEnum):
    """Why a connection was closed on its client."""

    HEAD_DEADLINE = "head_deadline"
    """The head of a request was not complete in time."""
    BODY_DEADLINE = "body_deadline"
    """Its body was not."""
    UNREAD = "unread"
    """The client did not read its answer."""
    ROOM = "room"
    """Idle for longest, or in the middle of a request for longest, when another came and all places were taken."""
    SURPLUS = "surplus"
    """All places were taken by requests in hand."""


class Closures:
    """For one event loop at a time."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = -_TELL_EVERY_S
        self.describe: Callable[[], dict[str, int]] = dict
        """What else the line says: how many connections there are."""

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
            "connections closed on slow or surplus clients",
            **{str(why): count for why, count in counts.items()},
            **self.describe(),
        )


closures = Closures()
"""Those of this process."""
