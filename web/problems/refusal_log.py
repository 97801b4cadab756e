"""Logs why requests are answered 503: one line for each kind at once, then one in ten seconds with the count."""

import time
from collections import Counter

import structlog

from pipeline.process import metrics

log = structlog.get_logger()

_EVERY_S = 10.0


class RefusalLog:
    """Counts and logs 503 answers. The kinds of problems bound its size, whatever clients do."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}
        self._untold: Counter[str] = Counter()

    def tell(self, kind: str, cause: str) -> None:
        """Count one 503, and log it if it is time. `cause`: for an operator; clients do not see it."""
        metrics.UNAVAILABLE.labels(kind).inc()
        self._untold[kind] += 1
        now = time.monotonic()
        if now >= self._not_before.get(kind, 0.0):
            self._not_before[kind] = now + _EVERY_S
            log.warning("answered 503", kind=kind, cause=cause, requests=self._untold.pop(kind))
