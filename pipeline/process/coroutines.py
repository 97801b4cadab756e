"""Runs a coroutine that never waits, without an event loop."""

from collections.abc import Coroutine
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
