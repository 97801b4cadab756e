"""What each reader of the event log was given, and whether that is every event, in order, and none too early. Pure.

I9   the log holds each verdict and each parked order once; and each reader that follows it got
     every event, in the order of its order, none before its commit was visible, and a reader of ingest_api none twice
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proof.events import Event, EventBook
from tests.chaos.account.invariants import Broken

# With fewer, the suite may have missed every event that came before its commit.
LEAST_LOOKUPS = 100


@dataclass
class EventReader:
    """One reader's events, as they came."""

    name: str
    at_least_once: bool = False
    """Whether an event may come again, as it may in a webhook and in RabbitMQ."""
    book: EventBook = field(default_factory=EventBook)
    early: list[str] = field(default_factory=list)
    """Ids of events whose cause no other connection saw when they came."""
    looked_up: int = 0
    """Events whose cause was looked up when they came. It cannot be while PostgreSQL is away."""

    def take(self, events: Sequence[Event], now_s: float) -> None:
        """`now_s`: Unix seconds."""
        self.book.add(events, now_s)

    def lacks(self, happened: Mapping[str, int]) -> list[str]:
        """The orders of which not every event has come. `happened`: order id → number of its events."""
        return [order_id for order_id, count in happened.items() if self.book.last.get(order_id, 0) < count]

    def took_s(self, since_s: float, until_s: float) -> list[float]:
        """From the verdict to its arrival, for verdicts between these Unix times."""
        return [came_s - at_s for at_s, came_s in self.book.final.values() if since_s <= at_s < until_s]


def i9_each_event_comes(readers: Iterable[EventReader], happened: Mapping[str, int]) -> Broken:
    """`happened`: order id → number of its events: each time it was parked, and its verdict."""
    return [f"{reader.name}: {line}" for reader in readers for line in _wrong_with(reader, happened)]


def _wrong_with(reader: EventReader, happened: Mapping[str, int]) -> Broken:
    book, missing = reader.book, reader.lacks(happened)
    unfounded = [it for it, last in book.last.items() if last > happened.get(it, 0)]
    return [
        *([f"{len(missing)} orders lack an event: {missing[:3]}"] if missing else []),
        *([f"{len(unfounded)} orders have more events than causes: {unfounded[:3]}"] if unfounded else []),
        *([f"{book.duplicated} events came twice"] if book.duplicated and not reader.at_least_once else []),
        *([f"{book.out_of_order} events came out of their order's order"] if book.out_of_order else []),
        *([f"{len(reader.early)} events came before their commit: {reader.early[:3]}"] if reader.early else []),
        *([f"only {reader.looked_up} events were looked up"] if reader.looked_up < LEAST_LOOKUPS else []),
    ]
