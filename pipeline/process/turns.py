"""Fair turns at a limited resource: clients take turns, round robin, and the number of waiters is bounded."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline.process.shares import Busy, Shares

Waiter = asyncio.Future[None]


class Turns:
    """Stands in front of a connection pool, with as many turns as connections: a turn always finds one free.

    So a server that does not answer is never mistaken for a full pool. A client that asks for much waits for itself:
    its requests take turns with those of the others, however many they are.
    """

    def __init__(self, shares: Shares, at_once: int, timeout_s: float) -> None:
        """`shares`: places for requests that run or wait. `at_once`: turns. `timeout_s`: the longest wait."""
        self._shares, self._free, self._timeout_s = shares, at_once, timeout_s
        self._waiting: dict[str, deque[Waiter]] = {}

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Hold a turn for the length of the block. Raises Busy."""
        with self._shares.places(client):
            await self._begin(client)
            try:
                yield
            finally:
                self._end()

    async def _begin(self, client: str) -> None:
        if self._free:
            self._free -= 1
            return
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(waiter)
        try:
            async with asyncio.timeout(self._timeout_s):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # its turn came at the same moment
                self._end()
            if isinstance(error, TimeoutError):
                raise Busy from None
            raise

    def _end(self) -> None:
        while self._waiting:
            client, waiters = next(iter(self._waiting.items()))
            del self._waiting[client]
            waiter = waiters.popleft()
            if waiters:
                self._waiting[client] = waiters  # behind the others
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
