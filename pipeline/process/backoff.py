"""How long to wait before another attempt, and the wait itself.

Whatever is away is tried again for as long as it takes: nothing in hand is acknowledged meanwhile, so nothing is lost.
"""

import asyncio
import random

from pipeline.process.lifecycle import Abandoned

_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0


def backoff_s(attempt: int, first_s: float = _FIRST_RETRY_S, last_s: float = _LAST_RETRY_S) -> float:
    """Seconds to wait before retry number `attempt` (from 0): doubled each time, bounded, with half of it jitter.

    Jitter, because all clients reconnect at once when a broker returns.
    """
    doubled: float = first_s * 2 ** min(attempt, 16)
    return min(last_s, doubled) * random.uniform(0.5, 1.0)


async def wait_to_retry(stop: asyncio.Event, seconds: float) -> None:
    """Wait before another attempt at the batch in hand. Raises Abandoned as soon as `stop` is set.

    A stopping process should not wait for a database that may be away for hours. It need not: nothing in hand was
    acknowledged.
    """
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
    raise Abandoned
