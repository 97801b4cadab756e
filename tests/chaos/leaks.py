"""Whether a process holds more and more. Pure, but for the look into /proc."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Python gives little back, and a heap finds its size within minutes. A leak of 100 bytes an order is 2 MB a minute at
# 300 orders/s, and goes on.
_SETTLES_MB, _MB_PER_MIN = 12.0, 1.0


class Look(NamedTuple):
    at_s: float
    mb: float
    """Resident memory."""


def growth_mb(looks: Sequence[Look]) -> float:
    """By how much memory grew from the first look to the last, by the straight line that fits all of them best.

    One look at a bad moment means nothing by it.
    """
    count = len(looks)
    if count < 2:
        return 0.0
    mean_s, mean_mb = sum(it.at_s for it in looks) / count, sum(it.mb for it in looks) / count
    spread = sum((it.at_s - mean_s) ** 2 for it in looks)
    if not spread:
        return 0.0
    slope = sum((it.at_s - mean_s) * (it.mb - mean_mb) for it in looks) / spread
    return slope * (looks[-1].at_s - looks[0].at_s)


def allowed_mb(looks: Sequence[Look]) -> float:
    minutes = (looks[-1].at_s - looks[0].at_s) / 60 if looks else 0.0
    return _SETTLES_MB + _MB_PER_MIN * minutes


# ── I/O below


def open_files(pid: int) -> int:
    """File descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
