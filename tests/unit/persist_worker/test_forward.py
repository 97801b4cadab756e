"""Stored orders are published until the broker confirms them, or the worker stops."""

import asyncio

import pytest

from persist_worker import forward as forward_module
from persist_worker.forward import forward
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.process.lifecycle import Abandoned
from tests.support.data.metrics import grown, sample


class _Publisher(Publisher):
    """Publishes to nobody, with these outcomes."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.bodies: list[tuple[bytes, int]] = []

    async def publish(self, exchange: str, key: str, body: bytes, *, orders: int = 0, **_: object) -> Outcome:
        self.bodies.append((body, orders))
        return self.outcomes.pop(0)


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_module, "backoff_s", lambda attempt: 0.001)


async def test_p1_a_message_is_sent_until_it_is_confirmed_and_each_failure_is_told() -> None:
    publisher = _Publisher(Outcome.REFUSED, Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.CONFIRMED)
    told: list[Outcome] = []
    retries = sample("headrace_batch_retries_total", queue="q", reason="refused")
    async with grown(retries) as growth:
        assert await forward(publisher, b"[1]", 1, 1, queue="q", stop=asyncio.Event(), unconfirmed=told.append) == 3
        assert growth() == [1]
    assert publisher.bodies == [(b"[1]", 1)] * 4
    assert told == [Outcome.REFUSED, Outcome.UNKNOWN, Outcome.NOT_SENT]


async def test_p9_a_stopping_worker_sends_once_and_leaves_an_unconfirmed_batch_to_the_broker() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await forward(_Publisher(Outcome.CONFIRMED), b"[1]", 1, 1, queue="q", stop=stop) == 0
    publisher = _Publisher(Outcome.REFUSED)
    with pytest.raises(Abandoned):
        await forward(publisher, b"[1]", 1, 1, queue="q", stop=stop)
    assert publisher.outcomes == []
