"""When another channel is opened to publish on, and when the former one is closed."""

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.broker.channel_replacement import ChannelReplacement, ChannelState, Step

NOW = 1_000.0


def replacement(refused_for_s: float | None = None) -> ChannelReplacement:
    it = ChannelReplacement(opened_at=0)
    if refused_for_s is not None:
        it.current.refused(NOW - refused_for_s)
    return it


def test_a_channel_that_confirms_stays() -> None:
    assert replacement().next_step(NOW) is Step.NOTHING
    refused = replacement(refused_for_s=100)
    refused.current.confirmed()
    assert refused.next_step(NOW) is Step.NOTHING


def test_a_channel_that_refused_for_a_second_is_replaced() -> None:
    assert replacement(refused_for_s=0.9).next_step(NOW) is Step.NOTHING
    assert replacement(refused_for_s=1).next_step(NOW) is Step.OPEN_ANOTHER


def test_the_first_refusal_counts_and_not_the_last() -> None:
    it = replacement(refused_for_s=5)
    it.current.refused(NOW)
    assert it.next_step(NOW) is Step.OPEN_ANOTHER


@pytest.mark.parametrize(("replaced", "patience_s"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (10_000, 60)])
def test_a_channel_that_refuses_is_replaced_later_each_time(replaced: int, patience_s: float) -> None:
    """Each that was replaced costs something until the connection ends, and a queue may be full for days."""
    state = ChannelState(1, 0, refused_since=NOW - patience_s, replaced=replaced)
    assert state.is_stuck(NOW, is_suspect=False)
    assert not state.is_stuck(NOW - 0.5, is_suspect=False)


def test_a_suspect_channel_is_replaced_after_a_second_however_many_were_before() -> None:
    state = ChannelState(1, 0, refused_since=NOW - 1, replaced=10)
    assert state.is_stuck(NOW, is_suspect=True)
    assert not state.is_stuck(NOW - 0.5, is_suspect=True)
    state.confirmed()
    assert not state.is_stuck(NOW, is_suspect=True)


def test_the_former_channel_is_closed_once_it_waits_for_no_confirm() -> None:
    it = replacement(refused_for_s=1)
    former = it.current
    former.waiting = 2
    it.opened(it.another(NOW))
    assert (it.current.number, it.current.replaced, it.current.opened_at) == (2, 1, NOW)
    assert it.next_step(NOW) is Step.NOTHING
    former.waiting = 0
    assert it.next_step(NOW) is Step.CLOSE_FORMER
    assert it.next_step(NOW) is Step.CLOSE_FORMER, "the broker may not have closed it yet"
    it.closed_former()
    assert it.next_step(NOW) is Step.NOTHING


def test_no_third_channel_is_opened_while_the_former_one_is_open() -> None:
    it = replacement(refused_for_s=1)
    it.current.waiting = 1
    it.opened(it.another(NOW))
    it.current.refused(NOW)
    assert it.next_step(NOW + 1_000) is Step.NOTHING


def test_a_confirm_ends_the_row_of_replacements() -> None:
    it = replacement(refused_for_s=1)
    it.opened(it.another(NOW))
    it.current.confirmed()
    it.closed_former()
    it.current.refused(NOW)
    assert it.next_step(NOW + 0.9) is Step.NOTHING
    assert it.next_step(NOW + 1) is Step.OPEN_ANOTHER


class Machine(RuleBasedStateMachine):
    """Whatever happens: two channels at most, of different numbers, and none is closed with messages in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.it = ChannelReplacement(opened_at=0)
        self.now = NOW
        self.sent: list[ChannelState] = []

    @rule()
    def send(self) -> None:
        self.it.current.waiting += 1
        self.sent.append(self.it.current)

    @precondition(lambda self: self.sent)
    @rule()
    def confirm(self) -> None:
        state = self.sent.pop(0)
        state.waiting -= 1
        state.confirmed()

    @precondition(lambda self: self.sent)
    @rule()
    def refuse(self) -> None:
        state = self.sent.pop(0)
        state.waiting -= 1
        state.refused(self.now)

    @rule()
    def wait(self) -> None:
        self.now += 7

    @rule()
    def step(self) -> None:
        step = self.it.next_step(self.now)
        if step is Step.OPEN_ANOTHER:
            assert self.it.former is None
            self.it.opened(self.it.another(self.now))
        elif step is Step.CLOSE_FORMER:
            assert self.it.former not in self.sent
            self.it.closed_former()

    @invariant()
    def numbers_differ(self) -> None:
        numbers = [it.number for it in (self.it.current, self.it.former) if it is not None]
        assert sorted(numbers) in ([1], [2], [1, 2])


TestMachine = Machine.TestCase
