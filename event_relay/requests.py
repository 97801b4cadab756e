"""The requests that a hook gets: which events, how many in one, and under which id.

    batch 1      the event itself; `webhook-id` is the event's id
    batch > 1    a JSON array, of one event too; `webhook-id` is a hash of the hook and the events

Each attempt at a request has the same id and the same bytes, so a receiver may drop it by the id. After a crash or a
replay the same events may be cut into other requests. So a receiver that must not miscount drops events, by their ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

import msgspec

from database.event_ring import FollowedEvent
from pipeline.contract.order_events import join_events

TEST_TYPE = "hook.test"


@dataclass(frozen=True, slots=True)
class Request:
    webhook_id: str
    body: bytes
    events: int
    first_offset: int | None
    """None: a test event."""
    last_offset: int | None


def requests_of(
    hook_id: str, batch: int, types: frozenset[str] | None, product_id: str | None, events: Sequence[FollowedEvent]
) -> Iterator[Request]:
    """The requests for the events that the hook wants, in the order of the log. `types`, `product_id`: None for all."""
    wanted = [it for it in events if it.is_of(types, product_id)]
    for start in range(0, len(wanted), batch):
        yield _request(hook_id, wanted[start : start + batch], is_array=batch > 1)


def _request(hook_id: str, events: Sequence[FollowedEvent], *, is_array: bool) -> Request:
    first, last = events[0].offset, events[-1].offset
    if not is_array:
        return Request(events[0].id, events[0].encoded, 1, first, last)
    named = blake2b(hook_id.encode(), digest_size=16, person=b"webhook batch")
    for event in events:
        named.update(event.id.encode() + b"\n")
    return Request(f"batch.{named.hexdigest()}", join_events(it.encoded for it in events), len(events), first, last)


def request_for_test(hook_id: str, batch: int, wanted_at: datetime) -> Request:
    """What a hook gets when somebody asks for a test. It is no event of the log: it has neither cursor nor order."""
    event_id = f"test.{hook_id}.{wanted_at:%Y%m%dT%H%M%S.%f}"
    event = msgspec.json.encode({"id": event_id, "type": TEST_TYPE, "at": wanted_at, "hook": hook_id})
    return Request(event_id, event if batch == 1 else join_events([event]), 1, None, None)
