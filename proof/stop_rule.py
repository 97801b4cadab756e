"""Decides when a load stops because the server accepts nothing."""

from __future__ import annotations

import math
import time
from typing import Generic, TypeVar

from proof.load_result import LoadResult, is_accepted

T = TypeVar("T")

FOREVER_S = (math.inf, math.inf)
SOLD_OUT = 409


class StopRule(Generic[T]):
    """Decides when to stop a load that gets no acceptance. A 409 counts as one: what is sold out was sold."""

    def __init__(self, result: LoadResult[T], clients: int, acceptance_s: tuple[float, float]) -> None:
        """`acceptance_s`: seconds to wait for the first acceptance, and for each later one."""
        self._result, self._clients = result, clients
        self.patience_s, self._later_s = acceptance_s
        self._seen = 0
        self._since_s = time.perf_counter()

    def should_stop(self) -> bool:
        """Whether to stop, by the answers since the last call. Never before there are as many answers as clients."""
        fresh, self._seen = self._result.statuses[self._seen :], len(self._result)
        if any(is_accepted(status) or status == SOLD_OUT for status in fresh):
            self._since_s, self.patience_s = time.perf_counter(), self._later_s
        return self._seen >= self._clients and time.perf_counter() - self._since_s >= self.patience_s
