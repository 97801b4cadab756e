"""Whether a refusal means a full queue or a broker at fault."""

from pipeline.broker.refusals import Refusals


def test_a_queue_that_holds_messages_is_full() -> None:
    refusals = Refusals()
    assert not refusals.refused(sent_at=1, now=1.1, opened_at=0)
    assert refusals.is_unexplained
    refusals.looked(ready=50, now=1.2)
    assert not refusals.is_unexplained
    assert not refusals.refused(sent_at=2, now=2.1, opened_at=0)


def test_an_empty_queue_that_refuses_what_was_sent_after_that_has_no_excuse() -> None:
    refusals = Refusals()
    refusals.refused(sent_at=1, now=1.1, opened_at=0)
    refusals.looked(ready=0, now=1.2)
    assert not refusals.is_broken, "it may have been drained after it refused"
    assert refusals.refused(sent_at=1.3, now=1.4, opened_at=0)


def test_it_is_the_brokers_fault_once_a_channel_that_was_opened_since_is_refused_too() -> None:
    refusals = Refusals()
    refusals.refused(sent_at=1, now=1.1, opened_at=0)
    refusals.looked(ready=0, now=1.2)
    assert not refusals.wants_another(opened_at=0), "nothing says yet that it refuses with room"
    refusals.refused(sent_at=1.3, now=1.4, opened_at=0)
    assert not refusals.is_fault, "the channel alone may be what refuses"
    assert refusals.wants_another(opened_at=0)
    assert not refusals.wants_another(opened_at=2)
    refusals.refused(sent_at=2.1, now=2.2, opened_at=2)
    assert refusals.is_fault


def test_a_channel_that_took_the_place_of_one_while_the_queue_was_full_says_nothing_of_the_broker() -> None:
    """It may not have been told that there is room again."""
    refusals = Refusals()
    refusals.refused(sent_at=1, now=1.1, opened_at=0)
    refusals.looked(ready=50, now=1.2)
    refusals.refused(sent_at=3, now=3.1, opened_at=2)
    refusals.looked(ready=0, now=4)
    assert refusals.refused(sent_at=5, now=5.1, opened_at=2)
    assert not refusals.is_fault


def test_a_message_that_was_under_way_when_the_queue_was_seen_to_be_empty_says_nothing() -> None:
    refusals = Refusals()
    refusals.refused(sent_at=1, now=1.1, opened_at=0)
    refusals.looked(ready=0, now=2)
    assert not refusals.refused(sent_at=1.9, now=2.1, opened_at=0)


def test_a_confirm_ends_it() -> None:
    refusals = Refusals()
    refusals.refused(sent_at=1, now=1, opened_at=0)
    refusals.looked(ready=0, now=2)
    refusals.refused(sent_at=3, now=3, opened_at=2)
    refusals.confirmed()
    assert (refusals.is_broken, refusals.is_fault, refusals.since) == (False, False, None)
    assert not refusals.refused(sent_at=4, now=4, opened_at=0), "it has to be looked at again"


def test_a_queue_that_turns_out_to_hold_messages_is_no_fault() -> None:
    """It was empty, and has been filled since."""
    refusals = Refusals()
    refusals.refused(sent_at=1, now=1, opened_at=0)
    refusals.looked(ready=0, now=2)
    refusals.refused(sent_at=3, now=3, opened_at=2)
    refusals.looked(ready=50, now=4)
    assert (refusals.is_broken, refusals.is_fault) == (False, False)
    refusals.looked(ready=0, now=5)
    assert not refusals.refused(sent_at=4.5, now=5.1, opened_at=0)
