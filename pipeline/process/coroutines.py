"""Runs a coroutine that never waits, without an event loop; and waits for an event, but not for ever."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class WouldWait(Exception):
    """The coroutine waits for something. It was closed, so it will not go on."""


def run_without_waiting(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to its end. Returns its result.

    Raises what the coroutine raises, and WouldWait as soon as it would wait.
    """
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise WouldWait(repr(coroutine))


async def set_within(seconds: float | None, event: asyncio.Event) -> None:
    """Wait for `event`, but not longer than that. None: without a limit."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
