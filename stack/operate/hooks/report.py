"""Formats hooks for `./headrace hooks`: table rows, fields, attempts, JSON. Shows no secret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.contract.order_events import EventType, encode_cursor
from stack.operate.hooks.sql import Attempt, Hook, SecretDates
from stack.terminal import printable

SHOWN_ID = 8
_DETAIL_WIDTH = 80
_MOMENTS = ("created_at", "delivered_at", "failing_since", "retry_at", "attempted_at", "expires_at")
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def short(hook: Hook) -> str:
    """As much of the id as the list shows. Every command takes it."""
    return hook.id[:SHOWN_ID]


def named(hook: Hook) -> str:
    """The hook in a sentence."""
    return f"hook {short(hook)} ({printable(hook.url)})"


def state(hook: Hook) -> str:
    """One word: a paused hook is sent nothing, a failing one is tried again and again."""
    if hook.pause_reason is not None:
        return "paused"
    return "active" if hook.failing_since is None else "failing"


def as_dict(hook: Hook) -> dict[str, Any]:
    known = {name: it for name, it in asdict(hook).items() if name not in ("delivered", "log_id", "is_held")}
    cursor = encode_cursor(hook.log_id, hook.delivered)
    return {**_in_json(known), "state": state(hook), "cursor": cursor, "relay_sends": hook.is_held}


def attempt_as_dict(attempt: Attempt) -> dict[str, Any]:
    known = {name: it for name, it in asdict(attempt).items() if name not in ("id", "first_offset", "last_offset")}
    return {**_in_json(known), "is_test": attempt.first_offset is None}


def secret_as_dict(secret: SecretDates) -> dict[str, Any]:
    return _in_json(asdict(secret))


def _in_json(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: iso(it) if name in _MOMENTS else it for name, it in fields.items()}


def iso(when: datetime | None) -> str | None:
    return when.astimezone(UTC).isoformat() if when else None


def table(hooks: Sequence[Hook]) -> Table:
    rows = Table("id", "state", "behind", "last delivery", "types", box=None, padding=(0, 2, 0, 0))
    rows.add_column("url", overflow="fold")
    for it in hooks:
        words = (short(it), state(it), behind(it), second(it.delivered_at), _short_types(it), it.url)
        rows.add_row(*(Text(printable(word)) for word in words))
    return rows


def behind(hook: Hook) -> str:
    """How many events, and for how long the oldest has waited."""
    if not hook.behind:
        return "-"
    return f"{hook.behind:,}" + ("" if hook.behind_s is None else f", {age(hook.behind_s)}")


def age(seconds: float) -> str:
    """In the greatest unit that fits: 40 s, 12 min, 3 h, 2 d."""
    whole = max(0, round(seconds))
    unit, size = next((it for it in _UNITS if whole >= it[1]), _UNITS[-1])
    return f"{whole // size} {unit}"


def troubles(hooks: Sequence[Hook]) -> list[str]:
    """A line for each hook that is not well: why it is paused, or what went wrong last."""
    return [f"{short(it)} is {state(it)}: {why}" for it in hooks if (why := _why(it))]


def _why(hook: Hook) -> str:
    if hook.pause_reason is not None:
        return hook.pause_reason
    if hook.failing_since is None:
        return ""
    return f"since {second(hook.failing_since)}, attempts: {hook.failures:,}; the last: {hook.last_error or 'unknown'}"


def unattended(hooks: Sequence[Hook], now: datetime, patience: timedelta) -> list[Hook]:
    """Hooks that no event_relay has in its care, although it should have taken them by now."""
    return [it for it in hooks if it.pause_reason is None and not it.is_held and it.created_at < now - patience]


def fields(hook: Hook, secrets: Sequence[SecretDates]) -> dict[str, str]:
    """What `show` prints, by name."""
    return {
        "hook": hook.id,
        "url": hook.url,
        "state": ": ".join(it for it in (state(hook), _why(hook)) if it),
        "types": ", ".join(hook.types or ["all"]),
        "product": hook.product_id or "all",
        "batch": f"at most {hook.batch} in one request",
        "behind": behind(hook) if hook.behind else "- (it has been told of everything)",
        "cursor": encode_cursor(hook.log_id, hook.delivered),
        "created": iso(hook.created_at) or "",
        "delivered": iso(hook.delivered_at) or "-",
        "next attempt": iso(hook.retry_at) or "-",
        "secret": _secrets(secrets),
        "event_relay": "sends to it" if hook.is_held else "- (none sends to it now)",
    }


def _secrets(secrets: Sequence[SecretDates]) -> str:
    current = [f"of {second(it.created_at)}" for it in secrets if it.expires_at is None]
    old = [f"one of {second(it.created_at)} signs until {second(it.expires_at)}" for it in secrets if it.expires_at]
    return "; ".join(current + old) or "-"


def attempts_table(attempts: Sequence[Attempt]) -> Table:
    rows = Table("attempt", "events", "status", "took", box=None, padding=(0, 2, 0, 0))
    rows.add_column("answer", overflow="fold")
    for it in attempts:
        events = "test" if it.first_offset is None else f"{it.events:,}"
        status = "-" if it.status is None else str(it.status)
        said = it.error or it.answer
        said = said if len(said) <= _DETAIL_WIDTH else f"{said[:_DETAIL_WIDTH]}..."
        rows.add_row(*(Text(printable(word)) for word in (second(it.attempted_at), events, status, took(it), said)))
    return rows


def outcome(attempt: Attempt) -> str:
    """What became of a test event, in one line."""
    if attempt.status is None:
        return f"no answer after {took(attempt)}: {attempt.error or 'unknown'}"
    said = f": {attempt.answer[:_DETAIL_WIDTH]}" if attempt.answer and not attempt.is_success else ""
    return f"the receiver answered {attempt.status} after {took(attempt)}{said}"


def took(attempt: Attempt) -> str:
    return f"{attempt.took_ms:,} ms"


def second(when: datetime | None) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if when else "-"


def _short_types(hook: Hook) -> str:
    """`processed,failed`: the part that all types begin with is left out."""
    prefix = EventType.PROCESSED.partition(".")[0] + "."
    return ",".join(it.removeprefix(prefix) for it in hook.types) if hook.types else "all"
