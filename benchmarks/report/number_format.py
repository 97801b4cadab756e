"""Formats numbers as text, with only as many digits as one run can distinguish. Pure."""

from __future__ import annotations

from benchmarks.report.results import Spread

NOTHING = "–"


def number(value: float | None, digits: int = 0) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def ms(value: float | None) -> str:
    """Milliseconds, with about three digits: one run cannot distinguish more."""
    return NOTHING if value is None else number(value, 1 if value < 100 else 0)


def times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f} ×" if value < 3 else f"{value:.1f} ×"


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.0f} %"


def low_to_high(found: Spread | None) -> str:
    return NOTHING if found is None or found.count < 2 else f"{found.low:,.0f} to {found.high:,.0f}"
