"""Every 503 is told with its cause, and a flood of them is a few lines."""

import time

import pytest
from structlog.testing import capture_logs

from web.problems import problems
from web.problems.refusal_log import RefusalLog


def test_p8_a_flood_of_503_is_a_line_for_each_kind_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    it = RefusalLog()
    with capture_logs() as lines:
        for _ in range(1_000):
            it.tell("store-unavailable", "25006 the server is a standby")
            it.tell("overloaded", "full")
        now += 10
        it.tell("store-unavailable", "57P03 starting up")
    told = [(line["kind"], line["cause"], line["requests"]) for line in lines]
    assert told == [
        ("store-unavailable", "25006 the server is a standby", 1),
        ("overloaded", "full", 1),
        ("store-unavailable", "57P03 starting up", 1_000),
    ]


def test_a_503_tells_the_operator_its_cause_and_its_client_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "_refusals", RefusalLog())
    with capture_logs() as lines:
        answer = problems.store_unavailable("25006 the server 10.0.0.7 is a standby").response()
        problems.unknown_product("1").response()
    assert [line["cause"] for line in lines] == ["25006 the server 10.0.0.7 is a standby"]
    assert b"10.0.0.7" not in bytes(answer.body)
