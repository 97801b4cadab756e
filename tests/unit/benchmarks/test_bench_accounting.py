"""A benchmark run is void unless every order that was answered is stored and decided once, and nothing else is."""

from typing import Any

import pytest

from benchmarks.run.accounting import Account, Answers, settle


def told(*ids: str, unknown: int = 0, cancelled: str = "") -> Answers:
    answers = Answers()
    answers.add(ids, unknown, cancelled)
    return answers


def account(answers: Answers, stored: str, decided: str, cancelled: str = "", **more: int) -> Account:
    """`stored`, `decided`, `cancelled`: a letter for each id."""
    return settle(answers, stored, decided, cancelled, **{"refused": 0, "wrong_stock": 0, **more})


def test_everything_stored_and_decided_is_in_order() -> None:
    assert account(told("a", "b"), "ab", "ba") == Account(0, None)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"answers": told("a", "a")}, "1 answered without an id, or twice"),
        ({"answers": told("a", "b"), "decided": "ab"}, "1 answered and not stored"),
        ({"answers": told("a", "b"), "stored": "ab"}, "1 answered and not decided"),
        ({"answers": told("a", unknown=1), "stored": "ax"}, "1 stored and not decided, or the reverse"),
        ({"answers": told("a", unknown=1), "decided": "ax"}, "1 stored and not decided, or the reverse"),
        ({"stored": "axy", "decided": "axy"}, "2 stored and never answered"),
        ({"answers": told("a", unknown=1), "stored": "axy", "decided": "axy"}, "1 stored and never answered"),
        ({"refused": 3}, "3 refused for want of stock that was there"),
        ({"wrong_stock": 4}, "4 products whose stock does not add up"),
        ({"half": 1}, "1 baskets that are stored in part"),
        ({"answers": told("a", cancelled="a")}, "1 cancelled and not CANCELLED"),
        ({"cancelled": "a"}, "1 CANCELLED and never cancelled"),
    ],
)
def test_each_fault_makes_it_void_and_is_named(case: dict[str, Any], reason: str) -> None:
    found = account(**{"answers": told("a"), "stored": "a", "decided": "a", **case})
    assert found.void == reason


def test_all_faults_are_named_together() -> None:
    assert account(told("a", "b"), "a", "", wrong_stock=1).void == (
        "1 answered and not stored; 2 answered and not decided; 1 products whose stock does not add up"
    )


def test_an_order_of_unknown_outcome_may_be_stored() -> None:
    assert account(told("a", unknown=2), "axy", "axy") == Account(2, None)
    assert account(told("a", unknown=2), "a", "a") == Account(0, None)


def test_an_order_is_cancelled_if_its_client_asked_or_nobody_knows_whether_it_did() -> None:
    assert account(told("a", "b", cancelled="a"), "ab", "ab", "a").void is None
    assert account(told("a", "b", unknown=1), "ab", "ab", "a").void is None


def test_an_id_that_was_told_in_an_earlier_load_is_told_twice() -> None:
    answers = told("a", "b")
    answers.add(["b", "c", "c"], 1)
    assert (answers.ids, answers.twice, answers.unknown) == ({"a", "b", "c"}, 2, 1)
