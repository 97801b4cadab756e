"""An event loop whose time stands still until it is moved: what takes seconds takes none, and always the same."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# More than any chain of callbacks that one event sets off.
_TURNS = 20


class FrozenLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[dict[str, Any]] = []
        """What nobody has caught."""
        self.set_exception_handler(lambda _, context: self.errors.append(context))
        self._now = 1000.0

    def time(self) -> float:
        return self._now

    def pass_time(self, seconds: float) -> None:
        """Let all happen that is due by then."""
        self._now += seconds
        self.settle()

    def settle(self) -> None:
        """Let everything happen that can without time."""
        self.run_until_complete(_turn())

    def done(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of what needs no time."""
        return self.run_until_complete(coroutine)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """What goes on from here by itself, whenever there is time."""
        task = self.create_task(coroutine)
        self.settle()
        return task

    def end(self) -> None:
        """Cancel what still goes on."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks))
        self.close()


async def _turn() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
