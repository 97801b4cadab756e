"""Shares a process's places between its clients: no client can take all of them, and no request waits for one."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.process import metrics


class Busy(Exception):
    """All places, or this client's share of them, are taken. Nothing was done."""


class Shares:
    """A limited number of places. Each is a request, an order or a look-up in hand.

    A client may hold as many as are left free after it (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length
    thresholds for shared-memory packet switches", 1998). So one client alone holds at most half of the places, two a
    third each, N one in N + 1 each. There is always room for one more client. A client that holds none may take
    whatever is free. A service without API keys has one client, "", which may take all: a client could forge anything
    that told its requests apart.
    """

    def __init__(self, what: str, limit: int) -> None:
        """`what`: what the places are for, as the metrics' label. `limit`: their number."""
        self._what, self._limit = what, limit
        self._taken = 0
        self._held: dict[str, int] = {}
        metrics.PLACES_TAKEN.labels(what).set_function(lambda: self._taken)
        self._refusals = metrics.PLACES_REFUSED.labels(what)

    @property
    def is_full(self) -> bool:
        return self._taken >= self._limit

    def take(self, client: str, count: int = 1) -> None:
        """Take `count` places, all or none. Raises Busy."""
        if not self._may_take(client, count):
            self._refusals.inc()
            raise Busy(self._what)
        self._taken += count
        self._held[client] = self._held.get(client, 0) + count

    def give_back(self, client: str, count: int = 1) -> None:
        self._taken -= count
        if left := self._held[client] - count:
            self._held[client] = left
        else:
            del self._held[client]

    @contextmanager
    def places(self, client: str, count: int = 1) -> Iterator[None]:
        """Hold `count` places for the length of the block. Raises Busy."""
        self.take(client, count)
        try:
            yield
        finally:
            self.give_back(client, count)

    def _may_take(self, client: str, count: int) -> bool:
        free = self._limit - self._taken - count
        held = self._held.get(client, 0)
        return free >= 0 and (not client or not held or held + count <= free)
