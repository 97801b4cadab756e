"""An event loop with a frozen clock: seconds pass at once and deterministically, when the test moves the clock."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# More callbacks than any one event sets off.
_TURNS = 20


class FrozenLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[dict[str, Any]] = []
        """Uncaught errors."""
        self.set_exception_handler(lambda _, context: self.errors.append(context))
        self._now = 1000.0

    def time(self) -> float:
        return self._now

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and run everything that is due by then."""
        self._now += seconds
        self.settle()

    def settle(self) -> None:
        """Run everything that can happen without moving the clock."""
        self.run_until_complete(_turn())

    def done(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that needs no time. Returns its result."""
        return self.run_until_complete(coroutine)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a coroutine in the background."""
        task = self.create_task(coroutine)
        self.settle()
        return task

    def end(self) -> None:
        """Cancel all running tasks."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks))
        self.close()


async def _turn() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
