"""How a process ends what it has begun."""

import asyncio

import pytest

from pipeline.process import lifecycle


async def forgets_one_cancellation() -> None:
    """As `asyncio.wait_for` does before Python 3.12, when what it waits for comes at that moment."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


async def goes_on() -> None:
    await asyncio.Event().wait()


async def test_p9_a_task_that_forgets_its_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_CANCEL_AGAIN_S", 0.05)
    async with asyncio.timeout(5), lifecycle.background(forgets_one_cancellation(), goes_on()):
        await let_them_begin()


async def test_who_ends_at_the_first_cancellation_is_not_told_twice() -> None:
    async def ends_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)  # the time that its end takes, and shorter than _CANCEL_AGAIN_S
            told.append("ended")

    told: list[str] = []
    async with lifecycle.background(ends_slowly()):
        await let_them_begin()
    assert told == ["ended"]


async def let_them_begin() -> None:
    """A task runs up to its first wait in the loop's next turn."""
    await asyncio.sleep(0)
