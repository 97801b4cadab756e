"""Accounts for every order: crosses the API's answers off against the rows in PostgreSQL.

The comparison is a set difference by id, made here and not by a join in the database under audit. The load must use
products that nobody else orders: every row of theirs is then one of ours, or one too many.

    lost         accepted, and: in neither `orders` nor `dead_letters`; or without a verdict (a `stock_ledger` row or a
                 dead letter) when the drain is over; or stored or decided as other products or quantities than were
                 sent; or accepted without a readable id, so that nobody can ask for it
    duplicated   ids that the API answered twice; ids with two rows in one table; and rows that nobody sent: ids that no
                 202 named, beyond the requests for that product and quantity whose outcome is unknown
    oversold     products for which P3 is broken (proof.stock), or where the quantities of the orders behind their
                 PROCESSED verdicts add up to something else

A replayed dead letter does not count: its order must be in the other two tables.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from proof.load_result import LoadResult, is_accepted, is_refused, reason
from proof.stock import is_balanced

PROCESSED = "PROCESSED"
CANCELLED = "CANCELLED"
STORED = "STORED"

_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Order(NamedTuple):
    """What one request asked for."""

    product_id: str
    quantity: int
    more: tuple[tuple[str, int], ...] = ()
    """Product and quantity of each line behind the first."""


class Row(NamedTuple):
    """One order of `orders` or `stock_ledger`. `outcome`: STORED, PROCESSED, CANCELLED (also after PROCESSED), or the
    reason of a FAILED verdict.
    """

    id: str
    product_id: str
    quantity: int
    outcome: str
    more: tuple[tuple[str, int], ...] = ()


class Stock(NamedTuple):
    """One product's stock, and the sums that it must equal. `qty` None: the product has no row."""

    product_id: str
    qty: int | None
    adjusted: int
    taken: int
    """Σ quantity of the PROCESSED rows in `stock_ledger`."""
    ordered: int
    """Σ quantity in `orders` of the same ids."""


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

    @property
    def accepted_count(self) -> int:
        return len(self.accepted) + self.answered_twice + self.unreadable


class Reconciliation:
    """Crosses the accepted ids off against the rows of one table."""

    def __init__(self, accepted: Mapping[str, Order]) -> None:
        self._accepted = accepted
        self.missing = set(accepted)
        """Accepted ids without a row."""
        self.altered: set[str] = set()
        """Accepted ids whose row has another product or quantity."""
        self.repeated = 0
        """Rows beyond the first of an id."""
        self.extra: dict[str, Order] = {}
        """Rows that no 202 named."""
        self.outcomes: Counter[str] = Counter()
        """How many accepted ids have each outcome, by their first row."""

    def cross_off(self, rows: Iterable[Row]) -> None:
        for id_, product_id, quantity, outcome, more in rows:
            order = (product_id, quantity, more)
            if id_ in self.missing:
                self.missing.remove(id_)
                self.outcomes[outcome] += 1
                if self._accepted[id_] != order:
                    self.altered.add(id_)
            elif id_ in self._accepted or id_ in self.extra:
                self.repeated += 1
            else:
                self.extra[id_] = Order(*order)


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
        return not (self.lost_count or self.duplicated or self.oversold)


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
) -> Account:
    """Close the account. `parked`: the order ids of the dead letters that wait for a replay."""
    dead = sent.accepted.keys() & set(parked)
    failed = Counter({reason: n for reason, n in ledger.outcomes.items() if reason not in (PROCESSED, CANCELLED)})
    failed["dead_letter"] += len(dead & ledger.missing)
    repeated = orders.repeated + ledger.repeated + len(parked) - len(set(parked))
    return Account(
        stored=len(sent.accepted) - len(orders.missing),
        processed=ledger.outcomes[PROCESSED],
        cancelled=ledger.outcomes[CANCELLED],
        failed=+failed,
        lost={
            **dict.fromkeys(ledger.missing - dead, "no verdict"),
            **dict.fromkeys(orders.missing - dead, "not stored"),
            **dict.fromkeys(orders.altered | ledger.altered, "other products or quantities than were sent"),
        },
        unreadable=sent.unreadable,
        duplicated=sent.answered_twice + repeated + unexplained(orders.extra | ledger.extra, sent.unknown),
        oversold=[stock for stock in stocks if is_oversold(stock)],
        unknown_stored=len(orders.extra) - unexplained(orders.extra, sent.unknown),
        verdicts=verdicts,
    )


def unexplained(extra: Mapping[str, Order], unknown: Counter[Order]) -> int:
    """Count the rows that no request of unknown outcome can have made."""
    return (Counter(extra.values()) - unknown).total()


def is_oversold(stock: Stock) -> bool:
    """Whether P3 is broken for the product."""
    return not is_balanced(stock.qty, stock.adjusted, stock.taken) or stock.taken != stock.ordered
