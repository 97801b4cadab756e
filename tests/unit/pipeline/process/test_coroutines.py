"""A coroutine that never waits runs without an event loop, and one that waits is an error."""

import asyncio

import pytest

from pipeline.process.coroutines import WouldWait, run_without_waiting


async def three() -> int:
    return 3


async def fails() -> int:
    raise ValueError("its own")


def test_the_result_is_returned_and_an_error_is_raised() -> None:
    assert run_without_waiting(three()) == 3
    with pytest.raises(ValueError, match="its own"):
        run_without_waiting(fails())


def test_a_coroutine_that_waits_is_closed() -> None:
    steps: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(0)
            steps.append("went on")
        finally:
            steps.append("closed")

    with pytest.raises(WouldWait, match="waits"):
        run_without_waiting(waits())
    assert steps == ["closed"]
