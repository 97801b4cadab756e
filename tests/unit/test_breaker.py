"""A server that is away is tried by one caller in a second."""

import time

import pytest

from pipeline.breaker import PROBE_EVERY_S, Breaker


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
