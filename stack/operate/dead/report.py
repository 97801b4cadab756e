"""Formats dead letters for `./headrace dead`: table rows, fields, JSON, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from pipeline.contract import topology
from stack.operate.dead.sql import DeadLetter
from stack.terminal import printable

_DETAIL_WIDTH = 80


def as_dict(letter: DeadLetter) -> dict[str, object]:
    moments = {name: _iso(getattr(letter, name)) for name in ("first_seen_at", "replayed_at", "discarded_at")}
    return {**asdict(letter), **moments}


def _iso(when: datetime | None) -> str | None:
    return when.astimezone(UTC).isoformat() if when else None


def table(letters: list[DeadLetter]) -> Table:
    rows = Table("id", "order", "stage", "reason", "first seen", "settled", "detail", box=None, padding=(0, 2, 0, 0))
    for it in letters:
        words = (
            str(it.id),
            it.order_id or "-",
            it.stage,
            it.reason,
            _second(it.first_seen_at),
            _settled(it),
        )
        detail = it.detail if len(it.detail) <= _DETAIL_WIDTH else f"{it.detail[:_DETAIL_WIDTH]}..."
        rows.add_row(*(Text(printable(word)) for word in (*words, detail)))
    return rows


def _settled(it: DeadLetter) -> str:
    """How the letter was settled, and when."""
    if it.discarded_at:
        return f"discarded {_second(it.discarded_at)}"
    return f"replayed {_second(it.replayed_at)}" if it.replayed_at else "-"


def _second(when: datetime | None) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if when else "-"


def fields(letter: DeadLetter) -> dict[str, str]:
    return {
        "letter": str(letter.id),
        "order": letter.order_id or "- (the input does not say)",
        "stage": f"{letter.stage}: a replay sends it to {topology.KEYS[letter.stage]}",
        "reason": letter.reason,
        "detail": letter.detail,
        "schema": "- (the message did not say)" if letter.schema_version is None else str(letter.schema_version),
        "first seen": _iso(letter.first_seen_at) or "",
        "replayed": _iso(letter.replayed_at) or "-",
        "discarded": _iso(letter.discarded_at) or "-",
        **({"because": letter.discard_reason} if letter.discard_reason else {}),
    }


def counts(counts: Mapping[tuple[str, str], int]) -> str:
    return ", ".join(printable(f"{count} {stage} {reason}") for (stage, reason), count in counts.items())


def as_list(counts: Mapping[tuple[str, str], int]) -> list[dict[str, object]]:
    return [{"stage": stage, "reason": reason, "count": it} for (stage, reason), it in counts.items()]
