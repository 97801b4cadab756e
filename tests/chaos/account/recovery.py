"""Computes when throughput recovered. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SLICE_S = 0.05
"""Resolution."""
SHARE = 0.9
_STEADY_S = 3
"""Throughput counts as recovered after this many good seconds in a row: one burst is not enough."""

Histogram = Counter[int]
"""Slice of time, counted from 1970 → number of orders."""


def histogram(moments_s: Iterable[float]) -> Histogram:
    """`moments_s`: Unix seconds."""
    return Counter(int(moment // SLICE_S) for moment in moments_s)


def per_s(found: Histogram, since_s: float, until_s: float) -> float:
    """The mean rate between two times."""
    slices = range(int(since_s // SLICE_S), int(until_s // SLICE_S))
    return sum(found[it] for it in slices) / (len(slices) * SLICE_S) if slices else 0.0


def back_s(found: Histogram, before_per_s: float, since_s: float, until_s: float) -> float | None:
    """Seconds from `since_s` to the first run of seconds that each reach `SHARE` of the former rate.

    None: there was no such run before `until_s`.
    """
    a_second = round(1 / SLICE_S)
    first, last = int(since_s // SLICE_S), int(until_s // SLICE_S) - _STEADY_S * a_second
    for start in range(first, last + 1):
        seconds = (start + number * a_second for number in range(_STEADY_S))
        if all(sum(found[it] for it in range(at, at + a_second)) >= SHARE * before_per_s for at in seconds):
            return max(0.0, start * SLICE_S - since_s)
    return None


def worst(measured: Sequence[Mapping[str, float | None]], names: Iterable[str]) -> dict[str, float | None]:
    """The longest time for each measurement. None: one recovery failed, or none was measured."""
    times = {name: [it[name] for it in measured] for name in names}
    return {name: None if None in it or not it else max(s for s in it if s is not None) for name, it in times.items()}
