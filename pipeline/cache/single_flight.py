"""Prevents cache stampedes: one look-up of a key at a time, shared by all callers that came before it began."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs two look-ups at most for a stampede on a busted key: one that had begun, and one that later callers share.

    They must not share the first: what it read may be older than a change that they have seen.
    """

    def __init__(self) -> None:
        # By key: the look-up that runs, and the one that has not begun.
        self._begun: dict[str, asyncio.Task[T]] = {}
        self._waiting: dict[str, asyncio.Task[T]] = {}

    @property
    def is_idle(self) -> bool:
        return not self._begun and not self._waiting

    async def run(self, key: str, look_up: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
        """Return or raise what a look-up of `key` does: the caller's own, or one that had not begun when it came.

        `look_up` gets whether another went before: then the answer may be in the cache by now.
        """
        flight = self._waiting.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fly(key, look_up, self._begun.get(key)))
            flight.add_done_callback(_retrieved)
            self._waiting[key] = flight
        # Shielded: cancelling one caller must not cancel the look-up for the others.
        return await asyncio.shield(flight)

    async def _fly(
        self, key: str, look_up: Callable[[bool], Coroutine[Any, Any, T]], previous: "asyncio.Task[T] | None"
    ) -> T:
        if previous is not None:
            await asyncio.wait({previous})
        self._begun[key] = self._waiting.pop(key)
        try:
            return await look_up(previous is not None)
        finally:
            if self._begun.get(key) is asyncio.current_task():
                del self._begun[key]


def _retrieved(flight: "asyncio.Task[Any]") -> None:
    """Mark the error as retrieved. It belongs to the callers; if all were cancelled, nobody needs it."""
    if not flight.cancelled():
        flight.exception()
