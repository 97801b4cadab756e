"""Whether a process holds more and more. Pure, but for the look into /proc."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# A leak of 100 bytes an order is 1.8 MB a minute at 300 orders/s.
MB_PER_MIN = 1.0
# Python gives little back, and a heap that finds its size does so in steps of some MB: over fewer minutes such a step
# looks like a leak.
LEAST_MIN = 10.0
LEAST_LOOKS = 50


class Look(NamedTuple):
    at_s: float
    mb: float
    """Resident memory."""


def mb_per_min(looks: Sequence[Look]) -> float:
    """How fast memory grows, by the straight line that fits all looks best: one at a bad moment means nothing by it."""
    count = len(looks)
    if count < 2:
        return 0.0
    mean_s, mean_mb = sum(it.at_s for it in looks) / count, sum(it.mb for it in looks) / count
    spread = sum((it.at_s - mean_s) ** 2 for it in looks)
    return 60 * sum((it.at_s - mean_s) * (it.mb - mean_mb) for it in looks) / spread if spread else 0.0


def leaks(looks: Mapping[str, Sequence[Look]]) -> list[str]:
    """By process: which of them leak, and which were not looked at often and long enough to tell."""
    found = []
    for name, it in looks.items():
        minutes = (it[-1].at_s - it[0].at_s) / 60 if it else 0.0
        if len(it) < LEAST_LOOKS or minutes < LEAST_MIN:
            found.append(f"{name}: {len(it)} looks in {minutes:.1f} min tell nothing")
        elif (growth := mb_per_min(it)) > MB_PER_MIN:
            found.append(f"{name}: {growth:.2f} MB a minute, from {it[0].mb:.0f} MB to {it[-1].mb:.0f} MB")
    return found


# ── I/O below


def open_files(pid: int) -> int:
    """File descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
