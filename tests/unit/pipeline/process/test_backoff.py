"""How long is waited before another attempt."""

import asyncio

import pytest

from pipeline.process.backoff import backoff_s, wait_to_retry
from pipeline.process.lifecycle import Abandoned


@pytest.mark.parametrize(("attempt", "longest_s"), [(0, 0.1), (1, 0.2), (3, 0.8), (6, 5.0), (10_000, 5.0)])
def test_the_delay_doubles_up_to_a_bound_and_half_of_it_is_jitter(attempt: int, longest_s: float) -> None:
    delays = {backoff_s(attempt) for _ in range(500)}
    assert longest_s / 2 <= min(delays) < 0.6 * longest_s
    assert 0.9 * longest_s < max(delays) <= longest_s


async def test_a_wait_ends_after_its_time() -> None:
    await wait_to_retry(asyncio.Event(), 0.001)


async def test_p9_a_stopping_process_does_not_wait_for_what_is_away() -> None:
    stop = asyncio.Event()
    waiting = asyncio.create_task(wait_to_retry(stop, 3600))
    await asyncio.sleep(0)
    stop.set()
    with pytest.raises(Abandoned):
        await asyncio.wait_for(waiting, 5)
