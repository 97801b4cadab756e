"""Invariants after any fault. Pure: each function returns the violations; [] if the invariant holds.

I1   every order that was answered OK is stored and decided, or parked
I2   each id is once in `orders` and once in the ledger, and no two orders got the same id
I3   stock adds up at every look, and was never negative
I4   every stored row equals a sent order; no refused order is stored, and none more often than it was sent
I5   the cache agrees with the database, for products that are bought all the time and those bought once
I6   every request was answered within its deadline, and memory stayed bounded
I7   throughput has recovered, and the backlog is empty
I8   a log and a metric name the fault

I9, of the event log, is in event_readers.py.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from proof.accounting import Stock, is_oversold
from tests.chaos.account.signs import Counts, Logged, Restarts, Sign
from tests.chaos.scene.attempts import TIMEOUT, Attempt, Intent, Verdict

# With fewer, no relevant bust may have been checked.
LEAST_SINGLES = 20


class Stored(NamedTuple):
    """One row of `orders`."""

    id: str
    product_id: str
    quantity: int
    unit_price: Decimal
    total_price: Decimal


class Decided(NamedTuple):
    """One row of `stock_ledger`."""

    id: str
    product_id: str
    quantity: int


@dataclass(frozen=True)
class FinalState:
    """The content of the database when no process writes any more."""

    stored: Sequence[Stored]
    decided: Sequence[Decided]
    parked: Sequence[str] = ()
    """The ids of orders in waiting dead letters."""
    stocks: Sequence[Stock] = ()
    queued: Mapping[str, int] = field(default_factory=dict)
    """Queue → messages left in it."""


Broken = list[str]
"""One line for each violation."""


def i1_no_order_is_lost(intents: Iterable[Intent], state: FinalState) -> Broken:
    parked = set(state.parked)
    stored = {row.id for row in state.stored} | parked
    decided = {row.id for row in state.decided} | parked
    accepted = {id_ for intent in intents for id_ in intent.ids}
    undecided = {row.id for row in state.stored} - decided
    return [
        *(f"answered OK, and is not there: {it}" for it in sorted(accepted - stored)),
        *(f"stored, and was never decided: {it}" for it in sorted(undecided)),
        *(f"{count} messages are left in {queue}" for queue, count in state.queued.items() if count),
    ]


def i2_each_is_there_once(intents: Iterable[Intent], state: FinalState) -> Broken:
    orders, ledger = Counter(row.id for row in state.stored), Counter(row.id for row in state.decided)
    told = Counter(id_ for intent in intents for id_ in intent.ids)
    return [
        *(f"{count} times in orders: {it}" for it, count in orders.items() if count > 1),
        *(f"{count} times in the ledger: {it}" for it, count in ledger.items() if count > 1),
        *(f"decided, and not stored: {it}" for it in sorted(ledger.keys() - orders.keys())),
        *(f"told to {count} clients: {it}" for it, count in told.items() if count > 1),
        *(f"one key, {len(it.ids)} orders: {sorted(it.ids)}" for it in intents if len(it.ids) > 1),
    ]


def i3_stock_adds_up(state: FinalState, seen_unbalanced: Iterable[str]) -> Broken:
    """`seen_unbalanced`: violations seen under load."""
    return [
        *(f"at the end: {stock}" for stock in state.stocks if is_oversold(stock)),
        *(f"meanwhile: {it}" for it in seen_unbalanced),
    ]


def i4_what_is_stored_was_sent(intents: Sequence[Intent], state: FinalState, price: Decimal) -> Broken:
    """Known ids are compared one by one. Any other row must equal an order of unknown outcome, one row each."""
    wanted = {id_: intent.wanted.what for intent in intents for id_ in intent.ids}
    unknown = Counter(it.wanted.what for it in intents if it.verdict is Verdict.UNKNOWN)
    unasked = Counter({row.id: row[1:3] for row in state.stored if row.id not in wanted}.values()) - unknown
    decided = {row.id: row[1:3] for row in state.decided}
    return [
        *(f"not what was sent: {it}" for it in state.stored if it.id in wanted and it[1:3] != wanted[it.id]),
        *(f"not the price: {it}" for it in state.stored if (it[3], it[4]) != (price, price * it.quantity)),
        *(f"decided as another: {it}" for it in state.stored if it.id in decided and it[1:3] != decided[it.id]),
        *(f"a row that nobody may have sent: {what}" for what in sorted(unasked.elements())),
    ]


def i5_the_cache_is_true(cached: Mapping[str, object], in_database: Mapping[str, object]) -> Broken:
    """Both arguments: product id → product."""
    products = cached.keys() | in_database.keys()
    return [
        f"{it}: cached {cached.get(it)}, in the database {in_database.get(it)}"
        for it in sorted(products)
        if cached.get(it) != in_database.get(it)
    ]


def i5_no_bust_is_lost(cached: Mapping[str, int], in_database: Mapping[str, int]) -> Broken:
    """Compare the stock of products that were cached, then sold once after the fault (tests.chaos.scene.single_orders).

    `cached`: the products that the cache still holds.
    """
    few = f"only {len(in_database)} products were cached and then sold once, not {LEAST_SINGLES}"
    stale = sorted(it for it in cached if cached[it] != in_database.get(it))
    return [
        *([few] if len(in_database) < LEAST_SINGLES else []),
        *(f"{it}: sold once, cached {cached[it]}, in the database {in_database.get(it)}" for it in stale),
    ]


def i6_nobody_waits_and_nothing_swells(
    attempts: Iterable[Attempt], deadline_s: float, peak_mb: Mapping[str, float], limit_mb: float
) -> Broken:
    """`peak_mb`: service → peak memory."""
    late = [it for it in attempts if it.ended_s is None or it.told == TIMEOUT or it.ended_s - it.sent_s > deadline_s]
    return [
        *([f"{len(late)} requests were not answered within {deadline_s:g} s"] if late else []),
        *(f"{name} took {mb:.0f} MB" for name, mb in peak_mb.items() if mb > limit_mb),
    ]


def i7_throughput_is_back(recover_s: Mapping[str, float | None], within_s: float) -> Broken:
    """`recover_s`: measurement → seconds."""
    return [
        f"{name}: {'not' if it is None else f'after {it:.1f} s, not'} within {within_s:g} s"
        for name, it in recover_s.items()
        if it is None or it > within_s
    ]


def i8_the_fault_is_named(wanted: Iterable[Sign], seen: Iterable[Sign]) -> Broken:
    """`wanted`: must hold a sign in a log and one in metrics. `seen`: those that appeared."""
    signs, found = list(wanted), list(seen)
    return [
        *([] if any(isinstance(it, Logged) for it in signs) else ["no log was looked at"]),
        *([] if any(isinstance(it, Counts | Restarts) for it in signs) else ["no metrics were looked at"]),
        *(f"not told: {sign}" for sign in signs if sign not in found),
    ]
