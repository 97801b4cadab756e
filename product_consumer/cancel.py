"""The transactions that cancel orders: store the cancellations, then settle those whose orders are stored.

Why no cancellation is lost. It is committed before `_settle` looks for its order, and a message of orders is sent only
after the orders are committed.

    _settle finds the order        _settle decides, under the locks of a verdict: it writes the verdict CANCELLED, or
                                   finds the verdict, and gives the units of a PROCESSED order back
    _settle does not find it yet   the order is committed later, so its message is sent later, and its verdict begins
                                   later. The verdict sees the cancellation (product_consumer/ledger.py)

Every step is safe to repeat: a cancellation is one row, and a settled one is not settled again. The last word is in the
database. An order has one verdict, one effective cancellation, and one adjustment for each of its products.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import NamedTuple

from database.connection import Connection
from database.dead_letters import DeadLetter, park
from pipeline.contract.adjustments import Adjustment
from pipeline.contract.cancellations import IS_EFFECTIVE, Cancellation, CancelOutcome
from pipeline.contract.product_events import ProductEvent
from pipeline.contract.stages import Stage
from product_consumer.cancellations import (
    OLDEST_FIRST,
    Settled,
    Waiting,
    orders_with,
    settle_each,
    write_settled,
)
from product_consumer.decide import CANCELLED, PROCESSED
from product_consumer.ledger import lock_products

_STORE = """
    INSERT INTO cancellations (order_id, client, sees_all, reason, requested_at)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[], $5::timestamptz[])
    ON CONFLICT DO NOTHING
"""
# A row for each line.
_LINES = "SELECT id::text, client, product_id::text, quantity FROM orders WHERE id = ANY($1::uuid[])"
_WAITING = f"""
    SELECT c.order_id::text, c.client, c.sees_all, l.outcome, EXISTS (
        SELECT FROM cancellations e WHERE e.order_id = c.order_id AND e.{IS_EFFECTIVE}
    ) AS is_cancelled
    FROM cancellations c
    LEFT JOIN LATERAL (SELECT outcome FROM stock_ledger WHERE order_id = c.order_id LIMIT 1) l ON true
    WHERE c.order_id = ANY($1::uuid[]) AND c.outcome IS NULL ORDER BY {OLDEST_FIRST}
"""
# Of two that decide an order without a product, the second finds the row of the first here. So does one that meets
# `dead discard`, which takes no locks.
_DECIDE = f"""
    INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, line_count)
    SELECT id, CASE WHEN line_count IS NULL THEN product_id END, CASE WHEN line_count IS NULL THEN quantity END,
        '{CANCELLED}', line_count
    FROM orders WHERE id = ANY($1::uuid[]) AND line = 0 ORDER BY id
    ON CONFLICT DO NOTHING RETURNING order_id::text
"""
_ADJUST = f"""
    INSERT INTO stock_adjustments (product_id, delta, order_id, reason)
    SELECT t.*, '{Adjustment.CANCELLATION}' FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS t
"""
_GIVE_BACK = """
    UPDATE products p SET qty = p.qty + t.quantity, version = p.version + 1, updated_at = clock_timestamp()
    FROM unnest($1::uuid[], $2::bigint[]) AS t (id, quantity)
    WHERE p.id = t.id RETURNING p.id::text, p.version, p.price, p.qty, p.deleted_at IS NOT NULL
"""
_RETURNED = f"""
    SELECT order_id::text FROM cancellations
    WHERE order_id = ANY($1::uuid[]) AND outcome = '{CancelOutcome.RETURNED}'
"""


class Line(NamedTuple):
    product_id: str
    quantity: int


@dataclass(frozen=True, slots=True)
class StoredOrder:
    owner: str | None
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What one batch changed, after its commit."""

    settled: list[Settled] = field(default_factory=list)
    products: list[ProductEvent] = field(default_factory=list)
    """Every product of the orders, in its new state. Also those of a batch that is delivered again: its consumer may
    have died between its commit and its bust.
    """
    restocked: frozenset[str] = frozenset()
    """The ids of those that were sold out and got units back. Also those that got some in an earlier delivery."""
    parked: list[DeadLetter] = field(default_factory=list)


_key = attrgetter("order_id", "client", "sees_all")


def effect_of(outcome: str | None, *, is_stored: bool, is_cancelled: bool) -> CancelOutcome | None:
    """What cancelling does to an order with this verdict (None: it has none); None: it has to wait for the order."""
    if outcome is None:
        return CancelOutcome.BEFORE_VERDICT if is_stored else None
    # Of an order that somebody has deleted, nobody knows any more whose it was and what its lines were.
    can_return = outcome == PROCESSED and is_stored and not is_cancelled
    return CancelOutcome.RETURNED if can_return else CancelOutcome.TOO_LATE


def products_of(orders: Iterable[StoredOrder]) -> frozenset[str]:
    return frozenset(line.product_id for order in orders for line in order.lines)


def units_of(lines: Iterable[Line]) -> Counter[str]:
    """The sum of the quantities, by product."""
    units: Counter[str] = Counter()
    for line in lines:
        units[line.product_id] += line.quantity
    return units


def outrun(settled: Iterable[Settled], decided: set[str]) -> list[Settled]:
    """The outcomes if only `decided` got the verdict CANCELLED: another verdict was faster for the others."""
    return [
        replace(it, outcome=CancelOutcome.TOO_LATE)
        if it.outcome is CancelOutcome.BEFORE_VERDICT and it.cancellation.order_id not in decided
        else it
        for it in settled
    ]


# ── I/O below


async def cancel(
    connection: Connection, cancellations: Sequence[Cancellation], dead: Sequence[DeadLetter]
) -> Cancelled:
    """Store `cancellations`, settle those whose orders are stored, and park `dead`. Safe to repeat.

    Raises PostgreSQL's errors: see database.faults.
    """
    # By the key: two consumers that got the same cancellations wait for each other's rows, and must not deadlock.
    ordered = sorted(cancellations, key=_key)
    rows = [(it.order_id, it.client, it.sees_all, it.reason, it.requested_at) for it in ordered]
    if rows:  # a transaction of its own: see above
        await connection.execute(_STORE, *map(list, zip(*rows, strict=True)))
    async with connection.transaction():
        cancelled = await _settle(connection, sorted({it.order_id for it in cancellations}))
        return replace(cancelled, parked=await park(connection, Stage.CANCEL, dead))


async def _settle(connection: Connection, order_ids: Sequence[str]) -> Cancelled:
    if not order_ids:
        return Cancelled()
    orders = await _stored(connection, order_ids)
    locked = await lock_products(connection, products_of(orders.values()))
    settled = await _judge(connection, order_ids, orders)
    if undecided := orders_with(CancelOutcome.BEFORE_VERDICT, settled):
        decided = {row[0] for row in await connection.fetch(_DECIDE, list(undecided))}
        settled = outrun(settled, decided)
    given_back = orders_with(CancelOutcome.RETURNED, settled)
    changed = await _give_back(connection, [(line, it) for it in given_back for line in orders[it].lines])
    await write_settled(connection, settled)
    products = {it.id: it for it in (*locked, *changed)}
    sold_out = frozenset(it.id for it in locked if not it.qty)
    restocked = sold_out & products_of(orders[it] for it in given_back)
    earlier = {row[0] for row in await connection.fetch(_RETURNED, list(orders))} - given_back
    return Cancelled(settled, list(products.values()), restocked | products_of(orders[it] for it in earlier))


async def _stored(connection: Connection, order_ids: Sequence[str]) -> dict[str, StoredOrder]:
    found: dict[str, StoredOrder] = {}
    for order_id, owner, *line in await connection.fetch(_LINES, order_ids):
        before = found[order_id].lines if order_id in found else ()
        found[order_id] = StoredOrder(owner, (*before, Line(*line)))
    return found


async def _judge(connection: Connection, order_ids: Sequence[str], orders: Mapping[str, StoredOrder]) -> list[Settled]:
    """What becomes of the waiting cancellations; without those that wait for their order. Call it under the locks."""
    waiting, effects = [], {}
    for order_id, client, sees_all, outcome, is_cancelled in await connection.fetch(_WAITING, order_ids):
        effect = effect_of(outcome, is_stored=order_id in orders, is_cancelled=is_cancelled)
        if effect is not None:
            effects[order_id] = effect
            waiting.append(Waiting(order_id, client, sees_all))
    return settle_each(waiting, {order_id: it.owner for order_id, it in orders.items()}, effects)


async def _give_back(connection: Connection, lines: Sequence[tuple[Line, str]]) -> list[ProductEvent]:
    """Return the units of these lines. `lines`: each with the id of its order."""
    if not lines:
        return []
    rows = ((line.product_id, line.quantity, order_id) for line, order_id in lines)
    await connection.execute(_ADJUST, *map(list, zip(*rows, strict=True)))
    units = units_of(line for line, _ in lines)
    return [ProductEvent(*row) for row in await connection.fetch(_GIVE_BACK, list(units), list(units.values()))]
