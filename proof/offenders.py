"""The audit's checks: what can be wrong in the database, and whether it is. Pure: rows in, offenders out.

    no_verdict             stored for longer than the lag, and neither decided nor parked by product_consumer
    not_stored             accepted for longer than the lag, and in no table: ingest_api reports how many there are
    two_verdicts           PROCESSED or FAILED, and also a dead letter that waits for its replay
    replay_lost            parked, replayed longer ago than the lag, and neither stored, decided nor parked since
    verdict_without_order  decided, and not stored
    verdict_differs        decided as another product, quantity or number of lines than what is stored
    stored_twice           a line has two rows in `orders`
    decided_twice          two rows in `stock_ledger`
    half_basket            an order of several lines is stored without all of them
    cancel_waits           a cancellation that waits for longer than the lag, although its order is decided
    cancel_differs         cancelled in one table and not in the others; or a cancelled order gave back something else
                           than it took
    event_missing          decided or parked since the event log began, and not in the log
    event_repeated         twice in the log
    event_without_cause    in the log, and neither decided nor parked
    event_offsets          the offsets of the log have a gap, or two batches have the same
    stock                  qty is below 0, or is not Σ stock adjustments − Σ quantity of the lines of PROCESSED orders

An order has a verdict if `GET /api/v1/orders/{id}` says so (ingest_api/reads/stored_orders.py). So for a stored order,
a dead letter of persist_worker is no verdict. One that was parked there for a clash of ids (id_conflict) is about
another order, so it is no second verdict either. A discarded letter has left the verdict FAILED.

During a replay some states look wrong and are right: sent, but not yet stored or decided; and decided, but not yet
marked as replayed. They may last as long as the lag, counted from the replay and from the verdict.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from proof.stock import expected_qty

NO_VERDICT = "no_verdict"
NOT_STORED = "not_stored"
TWO_VERDICTS = "two_verdicts"
REPLAY_LOST = "replay_lost"
VERDICT_WITHOUT_ORDER = "verdict_without_order"
VERDICT_DIFFERS = "verdict_differs"
STORED_TWICE = "stored_twice"
DECIDED_TWICE = "decided_twice"
HALF_BASKET = "half_basket"
CANCEL_WAITS = "cancel_waits"
CANCEL_DIFFERS = "cancel_differs"
EVENT_MISSING = "event_missing"
EVENT_REPEATED = "event_repeated"
EVENT_WITHOUT_CAUSE = "event_without_cause"
EVENT_OFFSETS = "event_offsets"
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
    HALF_BASKET,
    CANCEL_WAITS,
    CANCEL_DIFFERS,
    EVENT_MISSING,
    EVENT_REPEATED,
    EVENT_WITHOUT_CAUSE,
    EVENT_OFFSETS,
    STOCK,
)


class Offender(NamedTuple):
    """One thing that is wrong. `id`: of the order, of the product for `stock`, of the queue for `not_stored`, of the
    dead letter or the batch for an event.
    """

    check: str
    id: str
    expected: str
    found: str


class Trace(NamedTuple):
    """All that the database has of one suspect order: undecided, not stored, decided otherwise, or parked as well."""

    id: str
    product_id: str | None
    """As stored, of line 0; None: the order is not stored."""
    quantity: int | None
    lines: int | None
    """None: one, or the order is not stored."""
    decided_product_id: str | None
    decided_quantity: int | None
    decided_lines: int | None
    outcome: str | None
    """None: the order is not decided."""
    parked: str | None
    """The stage, or both, of dead letters of this order that wait for their replay. Without those of `id_conflict`."""
    is_discarded: bool
    """Whether a dead letter of this order was discarded: then it is decided, stored or not."""
    is_failed: bool
    """Whether a waiting letter of product_consumer is the order's verdict, as long as it has no other."""
    waiting_s: float | None
    """Seconds since the order was stored or replayed, whichever came last."""
    decided_s: float | None
    """Seconds since the verdict."""

    @property
    def is_undecided(self) -> bool:
        return self.outcome is None and not self.is_failed


class Replay(NamedTuple):
    """An order whose dead letters are all replayed, and that is in no other table."""

    id: str
    letter: int
    """The letter that was replayed last."""
    waiting_s: float
    """Seconds since that replay."""


class CancelTrace(NamedTuple):
    """All that the database has of an order that any table calls cancelled."""

    id: str
    outcome: str | None
    """Of its cancellation: before_verdict or returned; None: none is effective."""
    verdict: str | None
    lines: int
    """As stored."""
    returned: int
    """Of these, those whose units came back, each once."""
    adjustments: int
    """That name the order."""


class CancelWait(NamedTuple):
    """A cancellation that waits, although its order is decided."""

    id: str
    """Of the order."""
    verdict: str
    waiting_s: float
    """Seconds since both were there."""
    client: str
    sees_all: bool
    reason: str | None
    requested_at: datetime


class Logged(NamedTuple):
    """A verdict or a parked order that the event log does not have exactly once."""

    what: str
    """`verdict`, `cancellation` or `dead letter`."""
    id: str
    events: int
    happened: bool
    """Whether there is such a verdict, cancellation or letter."""


class StockMismatch(NamedTuple):
    """A product whose stock does not add up."""

    product_id: str
    qty: int | None
    """None: the product has no row."""
    adjusted: int
    processed: int


def judge(trace: Trace, lag_s: float) -> list[Offender]:
    """What is wrong with an order; [] if nothing is, or nothing for longer than the lag."""
    if trace.outcome is None:
        return [_late(trace, lag_s)] if is_late(trace, lag_s) else []
    return [*_stored_otherwise(trace), *_parked_too(trace, lag_s)]


def is_late(trace: Trace, lag_s: float) -> bool:
    """Whether the order is undecided for longer than the lag."""
    return trace.is_undecided and trace.waiting_s is not None and trace.waiting_s > lag_s


def lost(replay: Replay, lag_s: float) -> list[Offender]:
    """The offence of a replay that was lost, say with a deleted queue: no other check finds it. [] within the lag."""
    if replay.waiting_s <= lag_s:
        return []
    found = f"neither, {replay.waiting_s:.0f} s after dead letter {replay.letter} was replayed"
    return [Offender(REPLAY_LOST, replay.id, f"within {lag_s:g} s, stored, or parked again", found)]


def cancelled_otherwise(trace: CancelTrace) -> list[Offender]:
    """The offence of an order whose cancellation, verdict and adjustments do not agree."""
    wanted = {None: trace.verdict, "before_verdict": "CANCELLED", "returned": "PROCESSED"}[trace.outcome]
    lines = trace.lines if trace.outcome == "returned" else 0
    is_cancelled = trace.outcome is None and trace.verdict == "CANCELLED"
    if not is_cancelled and (trace.verdict, trace.returned, trace.adjustments) == (wanted, lines, lines):
        return []
    found = (
        f"verdict {trace.verdict}, {trace.returned} of {trace.lines} lines came back in {trace.adjustments} adjustments"
    )
    expected = (
        f"cancelled as {trace.outcome}: verdict {wanted}, {lines} lines came back"
        if trace.outcome
        else "no cancellation"
    )
    return [Offender(CANCEL_DIFFERS, trace.id, expected, found)]


def is_forgotten(wait: CancelWait, lag_s: float) -> bool:
    """Whether the cancellation waits for longer than the lag."""
    return wait.waiting_s > lag_s


def unsettled(wait: CancelWait, lag_s: float) -> list[Offender]:
    """The offence of a cancellation that was forgotten. [] within the lag."""
    if not is_forgotten(wait, lag_s):
        return []
    found = f"it waits, {wait.waiting_s:.0f} s after the verdict {wait.verdict}"
    return [Offender(CANCEL_WAITS, wait.id, f"settled within {lag_s:g} s", found)]


def unstored(queue: str, orders: int, oldest_s: float, lag_s: float) -> list[Offender]:
    """The offence of accepted orders that wait in `queue`; [] if none has waited for longer than the lag."""
    if not orders or oldest_s <= lag_s:
        return []
    found = f"{orders:,} orders without one, the oldest accepted {oldest_s:.0f} s ago"
    return [Offender(NOT_STORED, queue, f"a row within {lag_s:g} s", found)]


def unbalanced(stock: StockMismatch) -> Offender:
    balance = expected_qty(stock.adjusted, stock.processed)
    below = ", and never below 0" if balance < 0 else ""
    return Offender(
        STOCK,
        stock.product_id,
        f"qty {balance} = {stock.adjusted} adjusted - {stock.processed} processed{below}",
        "no such product" if stock.qty is None else f"qty {stock.qty}",
    )


def misreported(logged: Logged) -> Offender:
    """The offence of an event that is missing, repeated or without its cause."""
    if not logged.happened:
        return Offender(EVENT_WITHOUT_CAUSE, logged.id, "no event", f"an event of a {logged.what} that is not there")
    check = EVENT_REPEATED if logged.events else EVENT_MISSING
    return Offender(check, logged.id, f"one event of its {logged.what}", f"{logged.events} events")


def misplaced(batch: int, expected: int, found: int) -> Offender:
    """The offence of a batch of events that does not begin where the one before it ends."""
    return Offender(EVENT_OFFSETS, str(batch), f"first offset {expected}", f"{found}")


def repeated(check: str, id_: str, rows: int) -> Offender:
    """`check`: STORED_TWICE or DECIDED_TWICE."""
    return Offender(check, id_, "1 row", f"{rows} rows")


def half_basket(id_: str, count: int | None, lines: str) -> Offender:
    """`lines`: the numbers of those that are stored."""
    return Offender(HALF_BASKET, id_, f"{count or 'a known number of'} lines", f"lines {lines}")


def _late(trace: Trace, lag_s: float) -> Offender:
    return Offender(
        NO_VERDICT,
        trace.id,
        f"a verdict within {lag_s:g} s",
        f"none {trace.waiting_s:.0f} s after it was stored or sent",
    )


def _stored_otherwise(trace: Trace) -> list[Offender]:
    decided = _what(trace.decided_product_id, trace.decided_quantity, trace.decided_lines)
    if trace.product_id is None and trace.is_discarded and trace.outcome == "FAILED":
        return []  # the discarded order could not be stored
    if trace.product_id is None:
        return [Offender(VERDICT_WITHOUT_ORDER, trace.id, "a row in orders", f"none; {trace.outcome}, {decided}")]
    stored = _what(trace.product_id, trace.quantity, trace.lines)
    return [Offender(VERDICT_DIFFERS, trace.id, stored, decided)] if stored != decided else []


def _what(product_id: str | None, quantity: int | None, lines: int | None) -> str:
    """What an order asks for, as far as a verdict tells of it."""
    return f"{lines} lines" if lines else f"{quantity} of product {product_id}"


def _parked_too(trace: Trace, lag_s: float) -> list[Offender]:
    if trace.outcome == "CANCELLED":
        return []  # a client may cancel an order that is parked; replaying its letter changes nothing any more
    if trace.parked is None or trace.decided_s is None or trace.decided_s <= lag_s:
        return []
    return [Offender(TWO_VERDICTS, trace.id, "one verdict", f"{trace.outcome}, and a dead letter ({trace.parked})")]
