"""What counts as a leak."""

import os
from pathlib import Path

import pytest

from tests.chaos.account.leaks import LEAST_LOOKS, MemorySample, leaks, mb_per_min, open_files
from tests.chaos.scene.watch import resident_mb


def looks(mb_a_minute: float, *, minutes: float = 12, every_s: float = 5) -> list[MemorySample]:
    """Up and down by 5 MB besides."""
    count = int(minutes * 60 / every_s)
    return [
        MemorySample(it * every_s, 100 + mb_a_minute * it * every_s / 60 + (5 if it % 2 else -5)) for it in range(count)
    ]


def test_a_leak_of_100_bytes_an_order_shows_although_memory_goes_up_and_down() -> None:
    assert mb_per_min(looks(1.8)) == pytest.approx(1.8, abs=0.1)
    assert leaks({"ingest_api": looks(1.8)}) == ["ingest_api: 1.82 MB a minute, from 95 MB to 126 MB"]


def test_memory_that_stays_is_no_leak_and_neither_is_one_look_at_a_bad_moment() -> None:
    steady = looks(0)
    assert leaks({"ingest_api": steady}) == []
    assert leaks({"ingest_api": [*steady[:70], MemorySample(steady[70].at_s, 180), *steady[71:]]}) == []


@pytest.mark.parametrize(
    "few",
    [
        [],
        [MemorySample(1, 100)],
        looks(0, minutes=5),
        looks(0, minutes=30, every_s=60),
        [MemorySample(1, 100)] * LEAST_LOOKS,
    ],
    ids=["none", "one", "too short", "too few", "all at once"],
)
def test_who_was_hardly_looked_at_is_told_not_passed(few: list[MemorySample]) -> None:
    assert len(leaks({"ingest_api": few})) == 1


def test_a_process_is_looked_at_from_outside() -> None:
    before = open_files(os.getpid())
    with Path(os.devnull).open():
        assert open_files(os.getpid()) == before + 1
    assert 5 < resident_mb(os.getpid()) < 5_000
