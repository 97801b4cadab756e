"""I9 finds each fault of a reader of events, planted here, and nothing in a reader that got everything."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from proof.events import Event, decode_events
from tests.chaos.account.event_readers import LEAST_LOOKUPS, EventReader, i9_each_event_comes
from tests.chaos.account.invariants import Broken

AT_S = 1_700_000_000
HAPPENED = {"a": 1, "b": 2}


def event(order_id: str, sequence: int = 1, *, final: bool = True) -> Event:
    at, is_final = datetime.fromtimestamp(AT_S, UTC).isoformat(), str(final).lower()
    order = f'{{"id":"{order_id}","final":{is_final}}}'
    encoded = f'[{{"id":"{order_id}.{sequence}","sequence":{sequence},"at":"{at}","order":{order}}}]'
    return decode_events(encoded.encode())[0]


EVENTS = [event("b", 1, final=False), event("a"), event("b", 2)]


def reader(events: Sequence[Event] = EVENTS, *, at_least_once: bool = False) -> EventReader:
    it = EventReader("the stream", at_least_once, looked_up=LEAST_LOOKUPS)
    it.take(events, AT_S + 1)
    return it


def i9(it: EventReader) -> Broken:
    return i9_each_event_comes([it], HAPPENED)


def test_nothing_is_found_in_a_reader_that_got_each_event_once() -> None:
    assert i9(reader()) == []


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (EVENTS[:1] + EVENTS[2:], "the stream: 1 orders lack an event: ['a']"),
        (EVENTS[:2], "the stream: 1 orders lack an event: ['b']"),
        ([*EVENTS, EVENTS[1]], "the stream: 1 events came twice"),
        (EVENTS[1:], "the stream: 1 events came out of their order's order"),
        ([*EVENTS, event("c")], "the stream: 1 orders have more events than causes: ['c']"),
        ([*EVENTS, event("a", 2)], "the stream: 1 orders have more events than causes: ['a']"),
    ],
    ids=["no verdict", "no second event", "twice", "the second without the first", "no order", "an event too many"],
)
def test_i9_finds_what_a_reader_was_not_given_or_should_not_have_been(events: list[Event], expected: str) -> None:
    assert i9(reader(events)) == [expected]


def test_i9_finds_events_that_were_swapped() -> None:
    swapped = reader([EVENTS[2], EVENTS[0], EVENTS[1]])
    assert [line for line in i9(swapped) if "out of their order's order" in line]


def test_i9_finds_an_event_that_came_before_its_commit() -> None:
    early = reader()
    early.early.append("a.1")
    assert i9(early) == ["the stream: 1 events came before their commit: ['a.1']"]


def test_i9_finds_that_nobody_looked_whether_events_came_early() -> None:
    blind = reader()
    blind.looked_up = LEAST_LOOKUPS - 1
    assert i9(blind) == [f"the stream: only {LEAST_LOOKUPS - 1} events were looked up"]


def test_a_push_may_come_again_and_what_came_first_counts() -> None:
    assert i9(reader([*EVENTS, *EVENTS], at_least_once=True)) == []


def test_how_long_an_event_took_is_counted_once_and_for_verdicts_alone() -> None:
    it = reader([*EVENTS, *EVENTS])
    assert it.took_s(AT_S, AT_S + 1) == [1.0, 1.0]
    assert it.took_s(AT_S + 1, AT_S + 2) == []
