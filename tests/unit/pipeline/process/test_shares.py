"""Places that clients share: bounded, and nobody takes what another could have had."""

import contextlib

import pytest

from pipeline.process.shares import Busy, Shares

LIMIT = 120


def take_all(shares: Shares, client: str) -> int:
    """How many places the client gets, one after the other."""
    taken = 0
    while True:
        try:
            shares.take(client)
        except Busy:
            return taken
        taken += 1


@pytest.fixture
def shares() -> Shares:
    return Shares("tests", LIMIT)


def test_p8_a_client_alone_has_at_most_half_and_there_is_room_for_the_next(shares: Shares) -> None:
    assert take_all(shares, "a") == LIMIT // 2
    assert take_all(shares, "b") == LIMIT // 4
    shares.take("c")


def test_p8_clients_that_come_together_have_the_same(shares: Shares) -> None:
    for _ in range(LIMIT):
        for client in "abc":
            with contextlib.suppress(Busy):
                shares.take(client)
    held = {client: shares._held[client] for client in "abc"}
    assert held == dict.fromkeys("abc", LIMIT // 4)


def test_the_one_client_of_an_open_service_may_take_all(shares: Shares) -> None:
    assert take_all(shares, "") == LIMIT
    assert shares.is_full


def test_a_client_that_holds_none_may_take_what_is_free(shares: Shares) -> None:
    shares.take("a", LIMIT)
    with pytest.raises(Busy):
        shares.take("b")
    shares.give_back("a", LIMIT)
    with pytest.raises(Busy):
        shares.take("b", LIMIT + 1)
    with shares.places("b", LIMIT):
        assert shares.is_full
    assert not shares.is_full
    assert not shares._held


def test_many_at_once_are_all_or_none(shares: Shares) -> None:
    shares.take("a", 40)
    with pytest.raises(Busy):
        shares.take("a", 21)
    shares.take("a", 20)
