"""Waits for the test event that event_relay sends to a hook."""

from __future__ import annotations

import asyncio
import time

from proof.accounting_sql import Connection
from stack.operate.hooks.sql import Attempt, tested

# A receiver may take ten seconds to answer, and event_relay looks at the hooks when it is told to.
PATIENCE_S = 15.0
_POLL_S = 0.1


async def await_test(connection: Connection, hook_id: str, after: int) -> Attempt | None:
    """The test event sent after the attempt `after`. None: none was sent within PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        attempt = await tested(connection, hook_id, after)
        if attempt is not None or time.monotonic() > deadline:
            return attempt
        await asyncio.sleep(_POLL_S)
