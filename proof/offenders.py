"""What can be wrong with the books, and whether it is: rows of the database in, offenders out.

    no_verdict             stored for longer than the lag, and neither decided nor parked by product_consumer
    not_stored             accepted for longer than the lag, and in no table: ingest_api says how many of them there are
    two_verdicts           decided, and a dead letter that waits for its replay as well
    replay_lost            parked, sent again longer ago than the lag, and neither stored, decided nor parked since
    verdict_without_order  decided, and not stored
    verdict_differs        decided as another product or quantity than what is stored
    stored_twice           two rows in `orders`
    decided_twice          two rows in `stock_ledger`
    stock                  qty is below 0, or is not Σ stock adjustments − Σ quantity of PROCESSED verdicts

A verdict is what `GET /api/v1/orders/{id}` takes for one (ingest_api/reads/stored_orders.py). So for an order that is
stored, a dead letter of the first worker is none; and one that was parked there for a clash of ids (id_conflict) is
about another order, and is no second verdict either. A letter that was discarded has left the verdict FAILED.

Some things are right although they look wrong, while a dead letter is being replayed: sent, and not stored or not
decided yet; and decided, and not marked as replayed yet. They are given the lag, from the replay and from the verdict.
"""

from __future__ import annotations

from typing import NamedTuple

NO_VERDICT = "no_verdict"
NOT_STORED = "not_stored"
TWO_VERDICTS = "two_verdicts"
REPLAY_LOST = "replay_lost"
VERDICT_WITHOUT_ORDER = "verdict_without_order"
VERDICT_DIFFERS = "verdict_differs"
STORED_TWICE = "stored_twice"
DECIDED_TWICE = "decided_twice"
STOCK = "stock"

CHECKS = (
    NO_VERDICT,
    NOT_STORED,
    TWO_VERDICTS,
    REPLAY_LOST,
    VERDICT_WITHOUT_ORDER,
    VERDICT_DIFFERS,
    STORED_TWICE,
    DECIDED_TWICE,
    STOCK,
)


class Offender(NamedTuple):
    """One thing that is wrong. `id`: of the order; of the product, if it is about stock; of the queue, if of what waits
    in it.
    """

    check: str
    id: str
    expected: str
    found: str


class Trace(NamedTuple):
    """All that the database has of one order that is anything but stored and decided as it was stored."""

    id: str
    product_id: str | None
    """As it is stored; None: it is not."""
    quantity: int | None
    decided_product_id: str | None
    decided_quantity: int | None
    outcome: str | None
    """None: it is not decided."""
    parked: str | None
    """The stage of a dead letter of this order that waits for its replay, or both stages."""
    is_discarded: bool
    """Whether a dead letter of this order was discarded: it is decided then, whether it is stored or not."""
    is_failed: bool
    """Whether that dead letter is the order's verdict, as long as it has no other."""
    waiting_s: float | None
    """How long ago it was stored, or replayed, whatever came last."""
    decided_s: float | None
    """How long ago it was decided."""

    @property
    def is_undecided(self) -> bool:
        return self.outcome is None and not self.is_failed


class Replay(NamedTuple):
    """An order whose dead letters are all replayed, and that is nowhere else."""

    id: str
    letter: int
    """The last of them that was replayed."""
    waiting_s: float
    """How long ago that was."""


class Books(NamedTuple):
    """A product whose stock does not add up."""

    product_id: str
    qty: int | None
    """None: there is no such product."""
    adjusted: int
    processed: int


def judge(trace: Trace, lag_s: float) -> list[Offender]:
    """What is wrong with an order; [] if nothing is, or not for longer than the lag."""
    if trace.outcome is None:
        return [_late(trace, lag_s)] if is_late(trace, lag_s) else []
    return [*_stored_otherwise(trace), *_parked_too(trace, lag_s)]


def is_late(trace: Trace, lag_s: float) -> bool:
    """Whether the order should have had a verdict by now, and has none."""
    return trace.is_undecided and trace.waiting_s is not None and trace.waiting_s > lag_s


def lost(replay: Replay, lag_s: float) -> list[Offender]:
    """Nobody else would miss it: the queue that the replay went to was deleted, say. [] within the lag."""
    if replay.waiting_s <= lag_s:
        return []
    found = f"neither, {replay.waiting_s:.0f} s after dead letter {replay.letter} was replayed"
    return [Offender(REPLAY_LOST, replay.id, f"within {lag_s:g} s, stored, or parked again", found)]


def unstored(queue: str, orders: int, oldest_s: float, lag_s: float) -> list[Offender]:
    """Accepted orders that wait in `queue`; [] if none has done so for longer than the lag."""
    if not orders or oldest_s <= lag_s:
        return []
    found = f"{orders:,} orders without one, the oldest accepted {oldest_s:.0f} s ago"
    return [Offender(NOT_STORED, queue, f"a row within {lag_s:g} s", found)]


def unbalanced(books: Books) -> Offender:
    balance = books.adjusted - books.processed
    below = ", and never below 0" if balance < 0 else ""
    return Offender(
        STOCK,
        books.product_id,
        f"qty {balance} = {books.adjusted} adjusted - {books.processed} processed{below}",
        "no such product" if books.qty is None else f"qty {books.qty}",
    )


def repeated(check: str, id_: str, rows: int) -> Offender:
    """`check`: STORED_TWICE or DECIDED_TWICE."""
    return Offender(check, id_, "1 row", f"{rows} rows")


def _late(trace: Trace, lag_s: float) -> Offender:
    return Offender(
        NO_VERDICT,
        trace.id,
        f"a verdict within {lag_s:g} s",
        f"none {trace.waiting_s:.0f} s after it was stored or sent",
    )


def _stored_otherwise(trace: Trace) -> list[Offender]:
    decided = f"{trace.decided_quantity} of product {trace.decided_product_id}"
    if trace.product_id is None and trace.is_discarded and trace.outcome == "FAILED":
        return []  # what was discarded could not be stored
    if trace.product_id is None:
        return [Offender(VERDICT_WITHOUT_ORDER, trace.id, "a row in orders", f"none; {trace.outcome}, {decided}")]
    if (trace.product_id, trace.quantity) != (trace.decided_product_id, trace.decided_quantity):
        return [Offender(VERDICT_DIFFERS, trace.id, f"{trace.quantity} of product {trace.product_id}", decided)]
    return []


def _parked_too(trace: Trace, lag_s: float) -> list[Offender]:
    if trace.parked is None or trace.decided_s is None or trace.decided_s <= lag_s:
        return []
    return [Offender(TWO_VERDICTS, trace.id, "one verdict", f"{trace.outcome}, and a dead letter ({trace.parked})")]
