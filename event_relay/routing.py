"""Which messages a page of events becomes, and which of them a queue waits for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from database.event_ring import FollowedEvent
from pipeline.broker.publisher import Outcome
from pipeline.contract.order_events import EventType


@dataclass(frozen=True, slots=True)
class Message:
    type: str
    events: Sequence[FollowedEvent]

    @property
    def last_offset(self) -> int:
        return self.events[-1].offset


def messages_of(events: Sequence[FollowedEvent]) -> Iterator[Message]:
    """One message for each type. If an order has events of two types, the later one begins new messages. So a consumer
    of one queue sees the events of an order in their order.
    """
    by_type: dict[str, list[FollowedEvent]] = {}
    types: dict[str, str] = {}
    for event in events:
        if types.setdefault(event.order_id, event.type) != event.type:
            yield from (Message(*it) for it in by_type.items())
            by_type, types = {}, {event.order_id: event.type}
        by_type.setdefault(event.type, []).append(event)
    yield from (Message(*it) for it in by_type.items())


class Bindings:
    """What RabbitMQ's answers have told of each routing key: a queue is bound, or none was at some moment.

    A key of which nothing is known is treated as one with a queue.
    """

    def __init__(self) -> None:
        self._bound: set[str] = set()
        self._unbound: dict[str, int] = {}
        """By key, the end of the log before RabbitMQ was last found to have no queue for it."""

    def learn(self, key: str, outcome: Outcome, end: int) -> None:
        """`end`: where the log ended before the message was sent."""
        if outcome is Outcome.UNROUTABLE:
            self._bound.discard(key)
            self._unbound[key] = end
        elif outcome not in (Outcome.NOT_SENT, Outcome.UNKNOWN):  # a queue that is full is bound, too
            self._bound.add(key)
            self._unbound.pop(key, None)

    def forget_unbound(self) -> None:
        """Whoever has bound a queue to one key may have bound it to others."""
        self._unbound.clear()

    def is_bound(self, key: str) -> bool:
        return key in self._bound

    def is_unbound(self, key: str) -> bool:
        return key in self._unbound

    @property
    def unknown(self) -> list[EventType]:
        return [it for it in EventType if it not in self._bound and it not in self._unbound]

    @property
    def is_any_bound(self) -> bool:
        return bool(self._bound)

    def unwanted_upto(self, *keys: str) -> int:
        """No queue was bound to one of these keys when the events up to this offset were logged. 0: not known."""
        return min(self._unbound.get(it, 0) for it in keys)
