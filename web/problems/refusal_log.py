"""Log why requests are answered 503: of each kind a line at once, then one in ten seconds with how many there were."""

import time
from collections import Counter

import structlog

from pipeline.process import metrics

log = structlog.get_logger()

_EVERY_S = 10.0


class RefusalLog:
    """Bounded by the kinds of problems, whatever clients do."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}
        self._untold: Counter[str] = Counter()

    def tell(self, kind: str, cause: str) -> None:
        """`cause`: of this one, for an operator. Clients do not see it."""
        metrics.UNAVAILABLE.labels(kind).inc()
        self._untold[kind] += 1
        now = time.monotonic()
        if now >= self._not_before.get(kind, 0.0):
            self._not_before[kind] = now + _EVERY_S
            log.warning("answered 503", kind=kind, cause=cause, requests=self._untold.pop(kind))
