"""What `./headrace hooks` shows: state, lag and the last error; nothing that a terminal obeys."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from pipeline.contract.order_events import decode_cursor
from stack.operate.hooks.report import age, as_dict, attempts_table, fields, outcome, table, troubles, unattended
from stack.operate.hooks.sql import Attempt, Hook, SecretDates

NINE = datetime(2026, 1, 31, 9, tzinfo=UTC)
HOOK = Hook(
    id="0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
    url="https://shop.example/events",
    types=["order.processed", "order.failed"],
    product_id=None,
    batch=100,
    created_at=NINE,
    delivered=42,
    delivered_at=NINE,
    pause_reason=None,
    failing_since=None,
    failures=0,
    last_error=None,
    retry_at=None,
    is_held=True,
    log_id=7,
    behind=0,
    behind_s=None,
)
FAILING = replace(HOOK, failing_since=NINE, failures=31, last_error="503\x1b[2J", behind=1204, behind_s=10_900.4)
PAUSED = replace(FAILING, pause_reason="they migrate\u202e")
ATTEMPT = Attempt(5, NINE, 41, 42, 2, 503, 31, "busy\x1b]0;x\x07", None)


def shown(hooks: list[Hook], width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table(hooks))
    return captured.get()


def test_the_table_says_state_lag_and_types_and_fits_a_terminal() -> None:
    text = shown([HOOK, FAILING, replace(PAUSED, types=None, url=f"https://shop.example/{'x' * 300}")])
    assert max(map(len, text.splitlines())) <= 80
    assert "0199a1b2" in text
    lines = " ".join(text.split())
    assert "active -" in lines
    assert "failing" in lines
    assert "paused" in lines
    wide = shown([FAILING], 200)
    assert "failing  1,204, 3 h  2026-01-31T09:00:00Z  processed,failed  https://shop.example/events" in wide


def test_what_is_wrong_is_told_below_the_table() -> None:
    assert troubles([HOOK]) == []
    failing, paused = troubles([FAILING, PAUSED])
    assert failing == "0199a1b2 is failing: since 2026-01-31T09:00:00Z, attempts: 31; the last: 503\x1b[2J"
    assert paused == "0199a1b2 is paused: they migrate\u202e"


def test_a_hook_that_no_relay_took_in_time_is_told() -> None:
    patience, soon, later = timedelta(seconds=15), NINE + timedelta(seconds=14), NINE + timedelta(seconds=16)
    alone = replace(HOOK, is_held=False)
    assert unattended([HOOK, replace(PAUSED, is_held=False)], later, patience) == []
    assert unattended([alone], soon, patience) == []
    assert unattended([alone], later, patience) == [alone]


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59.4, "59 s"), (60, "1 min"), (7199, "1 h"), (7200, "2 h"), (200_000, "2 d")]
)
def test_an_age_is_one_number_and_its_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_json_has_the_cursor_and_no_internals() -> None:
    told = as_dict(PAUSED)
    assert decode_cursor(told.pop("cursor")) == (7, 42)
    assert told == {
        "id": HOOK.id,
        "url": HOOK.url,
        "types": HOOK.types,
        "product_id": None,
        "batch": 100,
        "created_at": "2026-01-31T09:00:00+00:00",
        "delivered_at": "2026-01-31T09:00:00+00:00",
        "pause_reason": "they migrate\u202e",
        "failing_since": "2026-01-31T09:00:00+00:00",
        "failures": 31,
        "last_error": "503\x1b[2J",
        "retry_at": None,
        "behind": 1204,
        "behind_s": 10_900.4,
        "state": "paused",
        "relay_sends": True,
    }


def test_show_says_since_when_each_secret_signs() -> None:
    secrets = [SecretDates(NINE, None), SecretDates(NINE - timedelta(days=9), NINE + timedelta(days=1))]
    told = fields(FAILING, secrets)
    assert told["secret"] == ("of 2026-01-31T09:00:00Z; one of 2026-01-22T09:00:00Z signs until 2026-02-01T09:00:00Z")
    assert told["state"].startswith("failing: since 2026-01-31T09:00:00Z, attempts: 31")
    assert told["behind"] == "1,204, 3 h"


def test_attempts_show_what_the_receiver_said_and_nothing_that_a_terminal_obeys() -> None:
    console = Console(width=120, color_system=None)
    attempts = [ATTEMPT, replace(ATTEMPT, first_offset=None, status=None, error="connection refused", answer="")]
    with console.capture() as captured:
        console.print(attempts_table(attempts))
    _, refused, silent = captured.get().splitlines()
    assert refused.split() == ["2026-01-31T09:00:00Z", "2", "503", "31", "ms", r"busy\x1b]0;x\x07"]
    assert silent.split() == ["2026-01-31T09:00:00Z", "test", "-", "31", "ms", "connection", "refused"]


def test_the_outcome_of_a_test_is_one_line() -> None:
    assert outcome(replace(ATTEMPT, status=204, answer="")) == "the receiver answered 204 after 31 ms"
    assert outcome(replace(ATTEMPT, answer="busy")) == "the receiver answered 503 after 31 ms: busy"
    assert outcome(replace(ATTEMPT, status=None, error="timeout")) == "no answer after 31 ms: timeout"
