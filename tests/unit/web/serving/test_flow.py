"""Who does not read an answer loses it; who reads slowly does not."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from web.serving.closures import closures
from web.serving.flow import MIN_READ_BYTES, READ_DEADLINE_S, Flow

WRITTEN = 10 * MIN_READ_BYTES


class Clock:
    """A loop whose one timer is fired by hand."""

    def __init__(self) -> None:
        self.timer: Callable[[], None] | None = None

    def call_later(self, delay_s: float, callback: Callable[..., None], *values: Any) -> "Clock":
        assert delay_s == READ_DEADLINE_S
        assert self.timer is None, "one is enough"
        self.timer = lambda: callback(*values)
        return self

    def cancel(self) -> None:
        self.timer = None

    def fire(self) -> None:
        timer, self.timer = self.timer, None
        assert timer is not None
        timer()


class Transport:
    def __init__(self) -> None:
        self.unread_bytes, self.is_reading, self.is_dropped, self.is_reset = WRITTEN, True, False, False

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_extra_info(self, _: str) -> "Transport":
        return self

    def setsockopt(self, *_: Any) -> None:
        self.is_reset = True

    def abort(self) -> None:
        self.is_dropped = True


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is closed is told a moment later, which takes a loop."""
    monkeypatch.setattr(closures, "note", lambda _: None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def waiting() -> list[int]:
    return []


@pytest.fixture
def flow(clock: Clock, transport: Transport, waiting: list[int]) -> Flow:
    return Flow(cast("asyncio.Transport", transport), cast("asyncio.AbstractEventLoop", clock), waiting)


@pytest.mark.parametrize("read_bytes", [0, 1, MIN_READ_BYTES - 1])
def test_who_reads_nothing_or_next_to_it_is_dropped(
    flow: Flow, clock: Clock, transport: Transport, read_bytes: int
) -> None:
    flow.pause_writing()
    transport.unread_bytes -= read_bytes
    clock.fire()
    assert (transport.is_dropped, transport.is_reset) == (True, True)


def test_who_reads_slowly_gets_all_of_it(flow: Flow, clock: Clock, transport: Transport) -> None:
    flow.pause_writing()
    while transport.unread_bytes > MIN_READ_BYTES:
        transport.unread_bytes -= MIN_READ_BYTES
        clock.fire()
    flow.resume_writing()
    assert (clock.timer, transport.is_dropped) == (None, False)


def test_the_last_bytes_are_waited_for_no_longer(flow: Flow, clock: Clock, transport: Transport) -> None:
    transport.unread_bytes = 10
    flow.watch()
    transport.unread_bytes = 1
    clock.fire()
    assert transport.is_dropped


def test_what_was_read_at_once_sets_no_timer(flow: Flow, clock: Clock, transport: Transport) -> None:
    transport.unread_bytes = 0
    flow.watch()
    assert clock.timer is None


def test_nothing_is_read_while_requests_wait(flow: Flow, transport: Transport, waiting: list[int]) -> None:
    flow.pause_reading()
    waiting.append(1)
    flow.resume_reading()
    assert not transport.is_reading
    waiting.clear()
    flow.resume_reading()
    assert transport.is_reading
