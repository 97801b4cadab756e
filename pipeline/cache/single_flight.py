"""One look-up of a thing at a time, shared by all who came for it before it began."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """A stampede on something that was just busted is two look-ups at the most: one that had begun, and one that all
    who came since share. They must not share the first: what it read may be older than a change that they have seen.
    """

    def __init__(self) -> None:
        # By key: the look-up that holds the turn, and the one that has not begun.
        self._begun: dict[str, asyncio.Task[T]] = {}
        self._waiting: dict[str, asyncio.Task[T]] = {}

    @property
    def is_idle(self) -> bool:
        return not self._begun and not self._waiting

    async def run(self, key: str, look_up: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
        """What `look_up` returns or raises: the caller's, or that of another who came before it began.

        It is told whether another went before: then the answer may be in the cache by now.
        """
        flight = self._waiting.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fly(key, look_up, self._begun.get(key)))
            flight.add_done_callback(_retrieved)
            self._waiting[key] = flight
        # Shielded: the others who wait for it have not been cancelled.
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
    """Its error was for those who waited. If all of them have gone, it is nobody's."""
    if not flight.cancelled():
        flight.exception()
