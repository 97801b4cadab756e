"""Places of a process, shared between its clients: no client can take all of them, and nobody waits for a place."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.process import metrics


class Busy(Exception):
    """More is in hand than the process may hold, or than this client's share. Nothing was done."""


class Shares:
    """So many places, each of which is a request, an order or a look-up in hand.

    A client may hold as many as are left free after it (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length
    thresholds for shared-memory packet switches", 1998). So one client alone holds at most half of the places, two a
    third each, N one in N + 1 each; and there is always room for one client more. A client that holds none may take
    whatever is free. A service without API keys has one client, "", and that may take all: nothing tells its requests
    apart that a client could not make up.
    """

    def __init__(self, what: str, limit: int) -> None:
        """`what`: what the places are, for the metrics."""
        self._what, self._limit = what, limit
        self._taken = 0
        self._held: dict[str, int] = {}
        metrics.PLACES_TAKEN.labels(what).set_function(lambda: self._taken)
        self._refusals = metrics.PLACES_REFUSED.labels(what)

    @property
    def is_full(self) -> bool:
        return self._taken >= self._limit

    def take(self, client: str, count: int = 1) -> None:
        """Take places, all or none. Raises Busy."""
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
        """Places for the length of the block. Raises Busy."""
        self.take(client, count)
        try:
            yield
        finally:
            self.give_back(client, count)

    def _may_take(self, client: str, count: int) -> bool:
        free = self._limit - self._taken - count
        held = self._held.get(client, 0)
        return free >= 0 and (not client or not held or held + count <= free)
