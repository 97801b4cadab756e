"""What counts as a leak."""

import os
from pathlib import Path

import pytest

from tests.chaos.leaks import Look, allowed_mb, growth_mb, open_files
from tests.chaos.watch import resident_mb


def test_a_leak_shows_although_memory_goes_up_and_down() -> None:
    looks = [Look(at_s, 100 + at_s / 10 + (5 if at_s % 20 else -5)) for at_s in range(0, 610, 10)]
    assert growth_mb(looks) == pytest.approx(60, abs=2)
    assert growth_mb(looks) > allowed_mb(looks)


def test_one_look_at_a_bad_moment_is_no_leak() -> None:
    looks = [Look(at_s, 180 if at_s == 300 else 100) for at_s in range(0, 610, 10)]
    assert growth_mb(looks) < 1 < allowed_mb(looks)


@pytest.mark.parametrize("looks", [[], [Look(1, 100)], [Look(1, 100), Look(1, 200)]])
def test_without_time_there_is_no_growth(looks: list[Look]) -> None:
    assert growth_mb(looks) == 0
    assert allowed_mb(looks) > 0


def test_a_process_is_looked_at_from_outside() -> None:
    before = open_files(os.getpid())
    with Path(os.devnull).open():
        assert open_files(os.getpid()) == before + 1
    assert 5 < resident_mb(os.getpid()) < 5_000
