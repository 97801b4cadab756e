"""Waits for a condition. The only place in the tests that sleeps."""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

_EVERY_S = 0.01


@overload
async def eventually(
    condition: Callable[[], Coroutine[Any, Any, T | None]], timeout_s: float = 10, every_s: float = _EVERY_S
) -> T: ...


@overload
async def eventually(condition: Callable[[], T | None], timeout_s: float = 10, every_s: float = _EVERY_S) -> T: ...


async def eventually(condition: Callable[[], Any], timeout_s: float = 10, every_s: float = _EVERY_S) -> Any:
    """Wait for the first true value of `condition`, which may be a coroutine function. Returns it.

    Raises AssertionError with the last value after `timeout_s`. What `condition` raises is raised at once.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s; the last value was {value!r}")
        await asyncio.sleep(every_s)
