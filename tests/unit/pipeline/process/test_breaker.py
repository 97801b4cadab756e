"""A server that is away is tried by one caller in a second."""

import time
from types import SimpleNamespace

import pytest

from pipeline.process import breaker
from pipeline.process.breaker import PROBE_EVERY_S, Breaker


def test_while_a_server_is_away_one_caller_in_a_while_tries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    it = Breaker("redis")
    assert [it.may_try() for _ in range(3)] == [True] * 3
    it.failed(OSError("gone"))
    assert it.is_away
    assert not it.may_try()
    now += PROBE_EVERY_S
    assert [it.may_try() for _ in range(3)] == [True, False, False]
    it.failed(OSError("still gone"))
    now += PROBE_EVERY_S / 2
    assert not it.may_try()
    it.worked()
    assert [it.may_try() for _ in range(3)] == [True] * 3
    assert not it.is_away


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the breaker has logged."""
    lines: list[str] = []
    log = SimpleNamespace(warning=lambda event, **_: lines.append(event), info=lambda event, **_: lines.append(event))
    monkeypatch.setattr(breaker, "log", log)
    return lines


def test_p12_a_server_that_reads_and_refuses_writes_is_one_state_told_once(
    monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    """A Redis that was demoted went away and came back 71 times in 71 s."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    it = Breaker("redis")
    for _ in range(71):
        it.failed(OSError("READONLY"), refuses_writes=True)
        now += 0.5
        it.worked()
        now += 0.5
        assert it.is_away
    assert told == ["redis is away; going on without"]
    it.worked(wrote=True)
    assert not it.is_away
    now += 4
    it.worked()
    assert told == ["redis is away; going on without", "redis is back"]


def test_p12_a_server_that_comes_and_goes_is_told_once(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    it = Breaker("redis")
    for _ in range(10):
        it.failed(OSError("gone"))
        now += 1
        it.worked()
        assert not it.is_away
        now += 1
    assert told == ["redis is away; going on without"]


def test_a_write_may_be_tried_at_once_where_only_a_write_can_show_that_a_server_is_back() -> None:
    it = Breaker("redis")
    it.failed(OSError("READONLY"), refuses_writes=True)
    assert not it.may_try()
    it.worked()
    assert it.may_try()


def test_nobody_else_tries_a_server_that_is_watched() -> None:
    it = Breaker("redis")
    it.is_watched = True
    assert it.may_try()
    it.failed(OSError("gone"))
    it._next_probe = 0
    assert not it.may_try()
