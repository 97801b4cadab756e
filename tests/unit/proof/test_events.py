"""The account of events: whatever the log does wrong, it is counted."""

import json
from typing import Any

from proof.events import EventBook, decode_events

A, B = "01940000-0000-8000-8000-00000000000a", "01940000-0000-8000-8000-00000000000b"


def event(order_id: str, sequence: int = 1, *, final: bool = True, at_s: int = 10) -> dict[str, Any]:
    order = {"id": order_id, "final": final, "status": "PROCESSED"}
    at = f"1970-01-01T00:00:{at_s:02}Z"
    return {"id": f"{order_id}.{sequence}", "cursor": "x", "type": "t", "sequence": sequence, "at": at, "order": order}


def book(*pages: list[dict[str, Any]]) -> EventBook:
    """Each page is read a second after the one before, from second 11 on."""
    made = EventBook()
    for number, page in enumerate(pages):
        made.add(decode_events(json.dumps(page).encode()), 11.0 + number)
    return made


def test_events_that_came_once_and_in_order_are_clean_and_timed() -> None:
    account = book([event(A)], [event(B)]).account([A, B], clock_offset_s=0.0)
    assert account.is_clean
    assert (account.p50_ms, account.p99_ms) == (1000.0, 2000.0)


def test_an_order_without_an_event_is_missing() -> None:
    assert book([event(A)]).account([A, B], 0.0).missing == 1


def test_a_parked_order_has_its_event_and_no_time_to_a_verdict() -> None:
    account = book([event(A, final=False)]).account([A], 0.0)
    assert account.is_clean
    assert account.p50_ms is None


def test_an_event_that_comes_again_is_counted_once_and_as_repeated() -> None:
    account = book([event(A)], [event(A)]).account([A], 0.0)
    assert (account.duplicated, account.out_of_order) == (1, 0)
    assert account.p99_ms == 1000.0


def test_a_sequence_with_a_gap_or_backwards_is_out_of_order() -> None:
    assert book([event(A, 2)]).account([A], 0.0).out_of_order == 1
    assert book([event(A, 1), event(A, 3), event(A, 2)]).account([A], 0.0).out_of_order == 2
    assert book([event(A, 1), event(B, 1), event(A, 2)]).account([A, B], 0.0).out_of_order == 0


def test_events_of_other_orders_are_no_concern_of_the_account() -> None:
    assert book([event(B)], [event(A)]).account([A], 0.0).is_clean
