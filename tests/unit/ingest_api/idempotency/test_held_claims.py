"""What a process keeps of its claims: in which order Redis is told, and never more than the bounds."""

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import booleans, integers

from ingest_api.idempotency import held_claims
from ingest_api.idempotency.held_claims import HeldClaims, Settled


def claim(name: object, priced: str = "p", state: str = "d") -> Settled:
    return Settled(str(name), "0" * 32, "o" * 16, state, "1" * 13, priced, "claims:c")


def held(*names: object) -> HeldClaims:
    it = HeldClaims(max_waiting=5)
    for name in names:
        it.hold(claim(name))
    return it


def names_in(taken: list[Settled]) -> list[str]:
    return [it.name for it in taken]


def test_p5_new_answers_are_settled_before_claims_are_restored_and_the_latest_of_those_first() -> None:
    it = held(1, 2)
    it.restore_all()
    assert it.settle(claim(3), is_away=False)
    assert it.settle(claim(4), is_away=False)
    assert names_in(it.take()) == ["3", "4", "2", "1"]
    assert (it.settling, it.restoring, it.settling_bytes, len(it)) == (0, 0, 0, 2)


def test_p5_what_cannot_be_settled_now_is_restored_later_if_it_is_held() -> None:
    it = held(1)
    assert not it.settle(claim(1), is_away=True)
    assert not it.settle(claim("freed", state=""), is_away=True)
    assert names_in(it.take()) == ["1"]


def test_p5_after_a_failed_call_all_is_restored_that_is_still_held_as_it_was() -> None:
    it = held(1, 2, 3)
    for name in (1, 2, 3):
        kept = it.get(str(name))
        assert kept is not None
        it.settle(kept, is_away=False)
    taken = it.take()
    it.hold(claim(2, "another price"))
    it.forget("3")
    it.call_failed(taken)
    assert names_in(it.take()) == ["1"]


def test_p8_one_call_settles_no_more_than_redis_can_take_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    it = held(*range(10))
    it.restore_all()
    monkeypatch.setattr(held_claims, "SETTLE_AT_ONCE", 4)
    assert names_in(it.take()) == ["9", "8", "7", "6"]
    monkeypatch.setattr(held_claims, "SETTLE_BYTES_AT_ONCE", 1)
    assert names_in(it.take()) == ["5"], "a claim of any size is settled at last"
    assert it.restoring == 5


def test_p8_the_oldest_is_forgotten_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_claims, "MAX_HELD", 2)
    it = held(1, 2, 1, 3)
    assert [it.get(name) is not None for name in "123"] == [True, False, True]


class Machine(RuleBasedStateMachine):
    """Whatever happens, the counts of bytes are those of the claims, and what waits to be restored is held."""

    def __init__(self) -> None:
        super().__init__()
        self.it = HeldClaims(max_waiting=5)
        self.taken: list[Settled] = []

    @rule(name=integers(0, 4), size=integers(0, 9))
    def hold(self, name: int, size: int) -> None:
        self.it.hold(claim(name, "p" * size))

    @rule(name=integers(0, 4))
    def forget(self, name: int) -> None:
        self.it.forget(str(name))

    @rule(name=integers(0, 4), is_away=booleans())
    def settle(self, name: int, is_away: bool) -> None:
        self.it.settle(self.it.get(str(name)) or claim(name, state=""), is_away=is_away)

    @rule()
    def take(self) -> None:
        self.taken = self.it.take()

    @rule()
    def fail(self) -> None:
        self.it.call_failed(self.taken)

    @rule()
    def restore(self) -> None:
        self.it.restore_all()

    @invariant()
    def bytes_are_counted(self) -> None:
        assert self.it.held_bytes == sum(it.size for it in self.it._held.values())
        assert self.it.settling_bytes == sum(it.size for it in self.it._to_settle)
        assert self.it.settling <= 5

    @invariant()
    def what_is_restored_is_held(self) -> None:
        assert self.it._to_restore.keys() <= self.it._held.keys()


TestMachine = Machine.TestCase
