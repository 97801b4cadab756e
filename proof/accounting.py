"""Accounts for every order: crosses the API's answers off against the rows in PostgreSQL.

The comparison is a set difference by id, made here and not by a join in the database under audit. The load must use
products that nobody else orders: every row of theirs is then one of ours, or one too many.

    lost         accepted, and: in neither `orders` nor `dead_letters`; or without a verdict (a `stock_ledger` row or a
                 dead letter) when the drain is over; or stored or decided as something else than was sent, reference
                 and metadata included; or accepted without a readable id, so that nobody can ask for it.
                 Likewise a cancellation that was accepted, of an order that is PROCESSED all the same; and an order
                 that is CANCELLED, and nobody asked for it
    half         baskets of which some lines are stored, and others not
    duplicated   ids that the API answered twice; ids with two rows in one table; and rows that nobody sent: ids that no
                 202 named, beyond the requests for the same order whose outcome is unknown
    oversold     products for which P3 is broken (proof.stock), or where the quantities of the orders behind their
                 PROCESSED verdicts, or behind the units that cancellations gave back, add up to something else

A replayed dead letter does not count: its order must be in the other two tables.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from proof.load_result import LoadResult, is_accepted, is_done, is_refused, reason
from proof.orders import Order
from proof.stock import is_balanced

PROCESSED = "PROCESSED"
CANCELLED = "CANCELLED"
STORED = "STORED"

_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Row(NamedTuple):
    """One order of `orders` or `stock_ledger`. `outcome`: STORED, PROCESSED, CANCELLED (also after PROCESSED), or the
    reason of a FAILED verdict.
    """

    id: str
    order: Order
    outcome: str


class Stock(NamedTuple):
    """One product's stock, and the sums that it must equal. `qty` None: the product has no row."""

    product_id: str
    qty: int | None
    adjusted: int
    taken: int
    """Σ quantity of the PROCESSED rows in `stock_ledger`."""
    ordered: int
    """Σ quantity in `orders` of the same ids."""
    given_back: int = 0
    """Σ stock adjustments that name a cancelled order."""
    cancelled: int = 0
    """Σ quantity in `orders` of the orders that were cancelled after they were PROCESSED."""


@dataclass(slots=True)
class Sent:
    """What the client knows of the orders it sent. About 200 MB for a million orders, ids as text."""

    accepted: dict[str, Order] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    """By the problem's name, or by the status if it has none."""
    unknown: Counter[Order] = field(default_factory=Counter)
    answered_twice: int = 0
    unreadable: int = 0
    """Orders accepted without a UUID by which to ask for them."""
    cancelled: set[str] = field(default_factory=set)
    """Ids of orders whose cancellation was answered 2xx."""
    perhaps_cancelled: set[str] = field(default_factory=set)
    """Ids of orders whose cancellation has an unknown outcome."""

    @property
    def accepted_count(self) -> int:
        return len(self.accepted) + self.answered_twice + self.unreadable


class Reconciliation:
    """Crosses the accepted ids off against the rows of one table."""

    def __init__(self, accepted: Mapping[str, Order], *, knows_details: bool = True) -> None:
        """`knows_details`: whether the table has reference and metadata. Those of `accepted` count only then."""
        self._accepted, self._knows_details = accepted, knows_details
        self.missing = set(accepted)
        """Accepted ids without a row."""
        self.altered: set[str] = set()
        """Accepted ids whose row is another order."""
        self.repeated = 0
        """Rows beyond the first of an id."""
        self.extra: dict[str, Order] = {}
        """Rows that no 202 named."""
        self.outcomes: Counter[str] = Counter()
        """How many accepted ids have each outcome, by their first row."""
        self.not_processed: dict[str, str] = {}
        """Accepted ids that failed or were cancelled, with the outcome."""

    def cross_off(self, rows: Iterable[Row]) -> None:
        for id_, order, outcome in rows:
            if id_ in self.missing:
                self.missing.remove(id_)
                self.outcomes[outcome] += 1
                if outcome not in (STORED, PROCESSED):
                    self.not_processed[id_] = outcome
                if self._asked(id_) != order:
                    self.altered.add(id_)
            elif id_ in self._accepted or id_ in self.extra:
                self.repeated += 1
            else:
                self.extra[id_] = order

    def _asked(self, id_: str) -> Order:
        order = self._accepted[id_]
        return order if self._knows_details else order.without_details


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Times to a verdict, by the database's clock. None if no order of these products was decided."""

    p50_ms: float | None
    p99_ms: float | None
    last_s: float | None
    """Unix time of the last verdict or dead letter."""


@dataclass(frozen=True, slots=True)
class Account:
    """Every order that was sent, accounted for."""

    stored: int
    processed: int
    failed: Mapping[str, int]
    """By reason; `dead_letter` for all that are parked."""
    lost: Mapping[str, str]
    """What is wrong, by order id. `unreadable` more have no id."""
    unreadable: int
    duplicated: int
    oversold: Sequence[Stock]
    half: Sequence[str]
    """The ids of half baskets."""
    unknown_stored: int
    """Requests of unknown outcome that were stored after all."""
    verdicts: Verdicts
    cancelled: int = 0

    @property
    def lost_count(self) -> int:
        return len(self.lost) + self.unreadable

    @property
    def decided(self) -> int:
        return self.processed + self.cancelled + sum(self.failed.values())

    @property
    def is_clean(self) -> bool:
        return not (self.lost_count or self.duplicated or self.oversold or self.half)


def sort_answers(result: LoadResult[Order]) -> Sent:
    """Sort the answers into accepted, refused and unknown (see proof.load_result)."""
    sent = Sent()
    for request, status, kept in zip(result.requests, result.statuses, result.kept, strict=True):
        if is_accepted(status):
            _accept(sent, kept.lower(), request.about)
        elif is_refused(status, kept):
            sent.refused[reason(status, kept)] += 1
        else:
            sent.unknown[request.about] += 1
    for cancelling, status, kept in result.follow_up_answers():
        if is_done(status):
            sent.cancelled.add(cancelling.about)
        elif not is_refused(status, kept):
            sent.perhaps_cancelled.add(cancelling.about)
    return sent


def _accept(sent: Sent, kept: bytes, order: Order) -> None:
    if not _UUID.fullmatch(kept):
        sent.unreadable += 1
    elif (id_ := kept.decode()) in sent.accepted:
        sent.answered_twice += 1
    else:
        sent.accepted[id_] = order


def settle(
    sent: Sent,
    orders: Reconciliation,
    ledger: Reconciliation,
    parked: Sequence[str],
    stocks: Iterable[Stock],
    verdicts: Verdicts,
    half: Sequence[str] = (),
) -> Account:
    """Close the account. `parked`: the order ids of the dead letters that wait for a replay. `half`: of half baskets,
    which count as nothing else.
    """
    dead = sent.accepted.keys() & set(parked)
    failed = Counter({reason: n for reason, n in ledger.outcomes.items() if reason not in (PROCESSED, CANCELLED)})
    failed["dead_letter"] += len(dead & ledger.missing)
    repeated = orders.repeated + ledger.repeated + len(parked) - len(set(parked))
    extra = {id_: order for id_, order in (ledger.extra | orders.extra).items() if id_ not in half}
    return Account(
        stored=len(sent.accepted) - len(orders.missing),
        processed=ledger.outcomes[PROCESSED],
        cancelled=ledger.outcomes[CANCELLED],
        failed=+failed,
        lost=_lost(sent, orders, ledger, dead | set(half)),
        unreadable=sent.unreadable,
        duplicated=sent.answered_twice + repeated + unexplained(extra, sent.unknown),
        oversold=[stock for stock in stocks if is_oversold(stock)],
        half=half,
        unknown_stored=len(orders.extra) - unexplained(orders.extra, sent.unknown),
        verdicts=verdicts,
    )


def _lost(sent: Sent, orders: Reconciliation, ledger: Reconciliation, excused: set[str]) -> dict[str, str]:
    """What is wrong, by order id. `excused`: orders that need be neither stored nor decided."""
    cancelled = {id_ for id_, outcome in ledger.not_processed.items() if outcome == CANCELLED}
    ignored = sent.cancelled - ledger.missing - ledger.not_processed.keys()
    return {
        **dict.fromkeys(ledger.missing - excused, "no verdict"),
        **dict.fromkeys(orders.missing - excused, "not stored"),
        **dict.fromkeys((orders.altered | ledger.altered) - excused, "something else than was sent"),
        **dict.fromkeys(ignored & sent.accepted.keys(), "PROCESSED, and its cancellation was accepted"),
        **dict.fromkeys(cancelled - sent.cancelled - sent.perhaps_cancelled, "CANCELLED, and nobody asked for it"),
    }


def unexplained(extra: Mapping[str, Order], unknown: Counter[Order]) -> int:
    """Count the rows that no request of unknown outcome can have made."""
    return (Counter(extra.values()) - unknown).total()


def is_oversold(stock: Stock) -> bool:
    """Whether P3 is broken for the product."""
    is_explained = stock.taken == stock.ordered and stock.given_back == stock.cancelled
    return not (is_explained and is_balanced(stock.qty, stock.adjusted, stock.taken))
