"""Measures the confirm rate; `Retry-After` is derived from it. Pure: times come from the caller."""

import math
import random
from collections import deque

MIN_RETRY_S, MAX_RETRY_S = 1, 30
# Clients refused together are told times up to this factor apart, so that they do not come back together.
_SPREAD = 1.5


class DrainRate:
    """Measures the orders confirmed per second of publishing, and the present outage, if there is one.

    Idle time does not count, or a quiet hour would make a fast broker look slow. An order costs nothing, and a message
    one small tuple, kept for `window_s`.
    """

    def __init__(self, window_s: float = 10.0) -> None:
        """`window_s`: how far back the rate looks from the last confirm."""
        self._window_s = window_s
        self._confirms: deque[tuple[float, int, float]] = deque()
        """When, how many orders, and how many seconds of publishing they took."""
        self._orders, self._busy_s = 0, 0.0
        self._last_confirm = -math.inf
        self._failing_since: float | None = None

    def confirmed(self, orders: int, since: float, now: float) -> None:
        """Count a confirmed message of `orders`, published at `since`. The confirm ends an outage."""
        # Messages in flight together share their time: each counts from the confirm of the one before.
        busy_s = now - max(since, self._last_confirm)
        self._confirms.append((now, orders, busy_s))
        self._orders += orders
        self._busy_s += busy_s
        self._last_confirm, self._failing_since = now, None
        self._forget(now - self._window_s)

    def failed(self, since: float) -> None:
        """Note that a message due at `since` was not confirmed, or not even sent."""
        if self._failing_since is None:
            self._failing_since = max(since, self._last_confirm)

    def wait_s(self, waiting: int, now: float) -> float:
        """Estimates how long until `waiting` orders are confirmed. 0 if nothing is known.

        An outage is assumed to be halfway through: it lasts as long again as it has lasted.
        """
        outage_s = 0.0 if self._failing_since is None else now - self._failing_since
        backlog_s = waiting * self._busy_s / self._orders if self._orders else 0.0
        return max(outage_s, backlog_s)

    def _forget(self, before: float) -> None:
        while self._confirms[0][0] < before:
            _, orders, busy_s = self._confirms.popleft()
            self._orders -= orders
            self._busy_s -= busy_s


def retry_after_s(wait_s: float) -> int:
    """Whole seconds for Retry-After: from `wait_s` to half as long again, at random, within 1 to 30."""
    soonest = math.ceil(min(max(wait_s, MIN_RETRY_S), MAX_RETRY_S / _SPREAD))
    return random.randint(soonest, math.ceil(soonest * _SPREAD))
