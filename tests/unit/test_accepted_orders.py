"""The store is asked by one for all, and while it is away only one waits to find out."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from database.sessions import StoreUnavailable
from ingest_api import accepted_orders
from ingest_api.accepted_orders import AcceptedOrders

_TIMEOUT_S = 0.5


async def test_a_store_that_hangs_is_waited_for_by_one_and_fails_all_others_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    @asynccontextmanager
    async def hangs(pool: Any, timeout_s: float) -> AsyncIterator[Any]:
        asked.append(time.monotonic())
        await asyncio.sleep(timeout_s)
        raise StoreUnavailable("it hangs")
        yield

    monkeypatch.setattr(accepted_orders, "reading", hangs)
    orders = AcceptedOrders(None, _TIMEOUT_S)  # type: ignore[arg-type]
    began = time.monotonic()

    async def waited_s() -> float:
        asked_at = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await orders.find(["an id"])
        return time.monotonic() - asked_at

    waiting: list[asyncio.Task[float]] = []
    while time.monotonic() < began + 3:
        waiting.append(asyncio.create_task(waited_s()))
        await asyncio.sleep(0.05)
    waits = await asyncio.gather(*waiting)
    after_the_first = [it for place, it in enumerate(waits) if place * 0.05 > 1.5 * _TIMEOUT_S]
    assert max(waits) < 1.5 * _TIMEOUT_S
    assert sum(it > 0.1 for it in after_the_first) <= len(asked) - 1  # the probers
    assert len(asked) <= 4
