"""The store is asked by one for all, and while it is away only one waits to find out."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from database.sessions import StoreUnavailable
from ingest_api.idempotency import accepted_orders
from ingest_api.idempotency.accepted_orders import AcceptedOrders
from tests.support.time.conditions import eventually

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
    assert max(waits) < 1.9 * _TIMEOUT_S, "nobody waits for two"
    assert sum(it > 0.5 * _TIMEOUT_S for it in after_the_first) <= len(asked) - 1  # the probers
    assert len(asked) <= 4


async def test_p5_a_slow_store_is_waited_for_and_one_that_is_away_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer may be that the order is stored. While it is away, nobody waits to find out whether it is back."""
    answers = asyncio.Event()

    @asynccontextmanager
    async def slow(pool: Any, timeout_s: float) -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(timeout_s):
                await answers.wait()
        except TimeoutError:
            raise StoreUnavailable("it hangs") from None
        yield _Empty()

    monkeypatch.setattr(accepted_orders, "reading", slow)
    timeout_s = 2.0
    orders = AcceptedOrders(None, timeout_s)  # type: ignore[arg-type]
    asked = asyncio.create_task(orders.find(["an id"], can_do_without=True))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await asyncio.shield(asked)
    answers.set()
    assert await asked == {}

    answers.clear()
    with pytest.raises(StoreUnavailable):
        await orders.find(["an id"], can_do_without=True)
    orders._breaker._next_probe = 0.0
    began = time.monotonic()
    for _ in range(2):  # the first tries it
        with pytest.raises(StoreUnavailable):
            await orders.find(["an id"], can_do_without=True)
    assert time.monotonic() - began < timeout_s
    answers.set()
    await eventually(lambda: not orders._breaker.is_away)
    assert await orders.find(["an id"], can_do_without=True) == {}


class _Empty:
    async def fetch(self, *_: Any) -> list[Any]:
        return []
