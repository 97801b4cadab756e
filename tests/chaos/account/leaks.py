"""Detects processes whose memory or open files keep growing. Pure, except for reading /proc."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# A leak of 100 bytes an order is 1.8 MB a minute at 300 orders/s.
MB_PER_MIN = 1.0
# Python returns little memory, and a heap grows to its final size in steps of some MB. Over fewer minutes such a step
# looks like a leak.
LEAST_MIN = 10.0
LEAST_LOOKS = 50


class MemorySample(NamedTuple):
    at_s: float
    mb: float
    """Resident memory."""


def mb_per_min(looks: Sequence[MemorySample]) -> float:
    """Growth of memory, by a least-squares line, so that one bad sample matters little."""
    count = len(looks)
    if count < 2:
        return 0.0
    mean_s, mean_mb = sum(it.at_s for it in looks) / count, sum(it.mb for it in looks) / count
    spread = sum((it.at_s - mean_s) ** 2 for it in looks)
    return 60 * sum((it.at_s - mean_s) * (it.mb - mean_mb) for it in looks) / spread if spread else 0.0


def leaks(looks: Mapping[str, Sequence[MemorySample]]) -> list[str]:
    """Sentences about processes that leak, or that were sampled too rarely or too briefly to tell."""
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
    """The number of open file descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
