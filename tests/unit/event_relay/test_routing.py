"""P11: an event is passed over only if a message with its key, sent later, has found no queue."""

import pytest

from event_relay.routing import Bindings
from pipeline.broker.publisher import Outcome
from pipeline.contract.order_events import EventType

PROCESSED, FAILED, CANCELLED, PARKED = EventType


def test_what_the_log_held_before_an_unroutable_message_is_unwanted_and_nothing_else() -> None:
    bindings = Bindings()
    assert bindings.unwanted_upto(FAILED) == 0
    bindings.learn(FAILED, Outcome.UNROUTABLE, 700)
    assert bindings.unwanted_upto(FAILED) == 700
    assert bindings.unwanted_upto(FAILED, PARKED) == 0
    bindings.learn(PARKED, Outcome.UNROUTABLE, 600)
    assert bindings.unwanted_upto(FAILED, PARKED) == 600


@pytest.mark.parametrize("outcome", [Outcome.NOT_SENT, Outcome.UNKNOWN])
def test_a_message_without_an_answer_tells_nothing(outcome: Outcome) -> None:
    bindings = Bindings()
    bindings.learn(PARKED, outcome, 9)
    assert bindings.unknown == list(EventType)
    bindings.learn(FAILED, Outcome.UNROUTABLE, 5)
    bindings.learn(FAILED, outcome, 9)
    assert bindings.unwanted_upto(FAILED) == 5
    bindings.learn(PROCESSED, Outcome.CONFIRMED, 9)
    bindings.learn(PROCESSED, outcome, 9)
    assert bindings.is_any_bound
    assert bindings.unknown == [CANCELLED, PARKED]


@pytest.mark.parametrize("outcome", [Outcome.CONFIRMED, Outcome.REFUSED, Outcome.BROKEN])
def test_a_queue_that_takes_or_refuses_is_bound_until_a_message_finds_none(outcome: Outcome) -> None:
    bindings = Bindings()
    bindings.learn(FAILED, Outcome.UNROUTABLE, 5)
    bindings.learn(FAILED, outcome, 7)
    assert bindings.is_bound(FAILED)
    assert bindings.unwanted_upto(FAILED) == 0
    bindings.learn(FAILED, Outcome.UNROUTABLE, 9)
    assert not bindings.is_any_bound
    assert bindings.unwanted_upto(FAILED) == 9
