"""Counting dead letters costs 1 ms a second at most, unless one count takes longer than 0.3 s."""

from persist_worker.waiting_letters import rest_s


def test_a_quick_count_comes_every_15_seconds() -> None:
    assert rest_s(0.000_2) == rest_s(0.015) == 15


def test_a_slow_count_comes_less_often_so_that_it_costs_a_thousandth_of_the_time() -> None:
    assert rest_s(0.1) == 100


def test_it_comes_every_five_minutes_all_the_same() -> None:
    assert rest_s(3.5) == 300
