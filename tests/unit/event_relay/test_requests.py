"""The requests that a hook gets, and the messages that the exchange gets."""

import itertools
import json
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from database.event_ring import FollowedEvent
from event_relay.requests import requests_of
from event_relay.routing import messages_of

TYPES = ("order.processed", "order.failed", "order.parked")


def event(offset: int, order: str = "", type_: str = "order.failed", product: str = "p") -> FollowedEvent:
    order = order or f"order{offset}"
    return FollowedEvent(
        offset, None, product, type_, order, json.dumps({"id": f"{order}.{offset}"}, separators=(",", ":")).encode()
    )


def test_a_request_for_one_event_is_the_event_and_has_its_id() -> None:
    [first, second] = requests_of("h", 1, None, None, [event(4), event(7)])
    assert (first.webhook_id, first.body, first.first_offset, first.last_offset) == (
        "order4.4",
        b'{"id":"order4.4"}',
        4,
        4,
    )
    assert second.last_offset == 7


def test_a_batch_is_an_array_and_its_id_is_of_the_hook_and_all_its_events() -> None:
    events = [event(it) for it in range(1, 6)]
    [whole, rest] = requests_of("h", 3, None, None, events)
    assert json.loads(whole.body) == [{"id": f"order{it}.{it}"} for it in (1, 2, 3)]
    assert (rest.events, rest.first_offset, rest.last_offset) == (2, 4, 5)
    ids = {
        next(requests_of(hook, 3, None, None, those)).webhook_id
        for hook, those in (
            ("h", events),
            ("g", events),
            ("h", events[:2]),
            ("h", events[1:]),
            ("h", [events[0], *events[2:4]]),
        )
    }
    assert len(ids) == 5
    assert next(requests_of("h", 3, None, None, events)).webhook_id == whole.webhook_id
    [alone] = requests_of("h", 3, None, None, events[:1])
    assert alone.body.startswith(b"[")


def test_filters_leave_out_what_the_hook_does_not_want() -> None:
    events = [event(1), event(2, type_="order.parked"), event(3, product="q"), event(4, product="")]
    got = requests_of("h", 10, frozenset({"order.failed"}), "p", events)
    assert [(it.first_offset, it.last_offset) for it in got] == [(1, 1)]
    assert not list(requests_of("h", 10, frozenset({"order.processed"}), None, events))


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(TYPES)), max_size=40))
def test_messages_hold_every_event_once_and_each_order_s_in_their_order(drawn: list[tuple[str, str]]) -> None:
    events = [event(offset, order, type_) for offset, (order, type_) in enumerate(drawn, 1)]
    messages = list(messages_of(events))
    sent = [it for message in messages for it in message.events]
    assert sorted(it.offset for it in sent) == [it.offset for it in events]
    assert all(it.type == message.type for message in messages for it in message.events)
    by_order = defaultdict(list)
    for it in sent:
        by_order[it.order_id].append(it.offset)
    assert all(offsets == sorted(offsets) for offsets in by_order.values())


def test_a_page_of_orders_with_one_event_each_is_one_message_for_each_type() -> None:
    events = [event(offset, type_=type_) for offset, type_ in zip(range(1, 31), itertools.cycle(TYPES), strict=False)]
    assert [(it.type, len(it.events)) for it in messages_of(events)] == [(it, 10) for it in TYPES]
