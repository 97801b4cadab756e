"""Accounts for events: each decided or parked order has its own, each of them once, in their order.

missing        decided or parked, and no event of it came
duplicated     an event that came twice
out_of_order   an event whose sequence is not one more than that of the event before it, of the same order
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from proof.load_result import percentile


class _Order(msgspec.Struct):
    id: str
    final: bool


class Event(msgspec.Struct):
    """What the account needs of an event as GET /api/v1/events answers it."""

    id: str
    sequence: int
    at: datetime
    order: _Order


_decoder = msgspec.json.Decoder(list[Event])


def decode_events(page: bytes) -> list[Event]:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(page)


@dataclass(slots=True)
class EventBook:
    """Every event that was read, as it came."""

    seen: set[str] = field(default_factory=set)
    last: dict[str, int] = field(default_factory=dict)
    """Order id → sequence of its last event."""
    final: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Order id → Unix time of its verdict by the database's clock, and time.perf_counter() when its event was read."""
    duplicated: int = 0
    out_of_order: int = 0

    def add(self, events: Iterable[Event], read_s: float) -> None:
        """`read_s`: time.perf_counter() when the page was there."""
        for event in events:
            if event.id in self.seen:
                self.duplicated += 1
                continue
            self.seen.add(event.id)
            if event.sequence != self.last.get(event.order.id, 0) + 1:
                self.out_of_order += 1
            self.last[event.order.id] = event.sequence
            if event.order.final:
                self.final[event.order.id] = (event.at.timestamp(), read_s)

    def lacks(self, order_ids: Iterable[str]) -> int:
        """How many of these orders have no event yet."""
        return sum(order_id not in self.last for order_id in order_ids)

    def account(self, decided: Collection[str], clock_offset_s: float) -> EventAccount:
        """`decided`: the orders that are decided or parked. `clock_offset_s`: the database's Unix time minus
        time.perf_counter().
        """
        took_ms = sorted(
            (read_s + clock_offset_s - at_s) * 1000
            for order_id in decided
            if (times := self.final.get(order_id))
            for at_s, read_s in [times]
        )
        return EventAccount(
            missing=self.lacks(decided),
            duplicated=self.duplicated,
            out_of_order=self.out_of_order,
            p50_ms=percentile(took_ms, 0.50),
            p99_ms=percentile(took_ms, 0.99),
        )


@dataclass(frozen=True, slots=True)
class EventAccount:
    missing: int
    duplicated: int
    out_of_order: int
    p50_ms: float | None
    """From the verdict to the moment in which a reader has its event. None if no order was decided."""
    p99_ms: float | None

    @property
    def is_clean(self) -> bool:
        return not (self.missing or self.duplicated or self.out_of_order)
