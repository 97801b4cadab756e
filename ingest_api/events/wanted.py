"""Runs the work of a request until it ends, its client leaves or the process stops."""

import asyncio
from collections.abc import Coroutine
from enum import Enum
from typing import Any, TypeVar

from starlette.types import Receive

from pipeline.process.lifecycle import end
from web.requests.waits import has_left

T = TypeVar("T")


class Ended(Enum):
    DONE = "done"
    LEFT = "left"
    """The client has left."""
    STOPPED = "stopped"
    """The process stops."""


async def while_wanted(
    work: Coroutine[Any, Any, T], receive: Receive, stopped: asyncio.Event
) -> tuple[Ended, T | None]:
    """Run `work`. Returns its result; or None, once it was cancelled, because nobody wants it any more. Raises what it
    raises.
    """
    working = asyncio.create_task(work)
    leaving, stopping = asyncio.create_task(has_left(receive)), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({working, leaving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return Ended.DONE, working.result()
        return Ended.LEFT if leaving.done() else Ended.STOPPED, None
    finally:
        await end([working, leaving, stopping])
