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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter

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
_LINES = "SELECT id::text, client, product_id::text FROM orders WHERE id = ANY($1::uuid[])"
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
    INSERT INTO stock_adjustments (product_id, delta, reason, order_id)
    SELECT product_id, quantity, '{Adjustment.CANCELLATION}', id FROM orders WHERE id = ANY($1::uuid[])
"""
_GIVE_BACK = """
    UPDATE products p SET qty = p.qty + t.quantity, version = p.version + 1, updated_at = clock_timestamp()
    FROM (SELECT product_id, sum(quantity)::bigint FROM orders WHERE id = ANY($1::uuid[]) GROUP BY product_id)
        AS t (id, quantity)
    WHERE p.id = t.id RETURNING p.id::text, p.version, p.price, p.qty, p.deleted_at IS NOT NULL
"""
_RETURNED = f"""
    SELECT order_id::text FROM cancellations
    WHERE order_id = ANY($1::uuid[]) AND outcome = '{CancelOutcome.RETURNED}'
"""


@dataclass(frozen=True, slots=True)
class StoredOrder:
    owner: str | None
    product_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What one batch changed, after its commit."""

    settled: list[Settled] = field(default_factory=list)
    products: list[ProductEvent] = field(default_factory=list)
    """Every product of the orders, in its new state. Also those of a batch that is delivered again: its consumer may
    have died between its commit and its bust.
    """
    restocked: frozenset[str] = frozenset()
    """The ids of those to which units came back, now or in an earlier delivery."""
    parked: list[DeadLetter] = field(default_factory=list)


_key = attrgetter("order_id", "client", "sees_all")


def effect_of(outcome: str | None, *, is_stored: bool, is_cancelled: bool) -> CancelOutcome | None:
    """What cancelling does to an order with this verdict (None: it has none); None: it has to wait for the order."""
    if outcome is None:
        return CancelOutcome.BEFORE_VERDICT if is_stored else None
    return CancelOutcome.RETURNED if outcome == PROCESSED and not is_cancelled else CancelOutcome.TOO_LATE


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
    locked = await lock_products(connection, {it for order in orders.values() for it in order.product_ids})
    settled = await _judge(connection, order_ids, orders)
    if undecided := orders_with(CancelOutcome.BEFORE_VERDICT, settled):
        decided = {row[0] for row in await connection.fetch(_DECIDE, list(undecided))}
        settled = outrun(settled, decided)
    changed = await _give_back(connection, orders_with(CancelOutcome.RETURNED, settled))
    await write_settled(connection, settled)
    products = {it.id: it for it in (*locked, *changed)}
    returned = [orders[row[0]].product_ids for row in await connection.fetch(_RETURNED, order_ids)]
    return Cancelled(settled, list(products.values()), frozenset(chain.from_iterable(returned)))


async def _stored(connection: Connection, order_ids: Sequence[str]) -> dict[str, StoredOrder]:
    found: dict[str, StoredOrder] = {}
    for order_id, owner, product_id in await connection.fetch(_LINES, order_ids):
        before = found[order_id].product_ids if order_id in found else ()
        found[order_id] = StoredOrder(owner, (*before, product_id))
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


async def _give_back(connection: Connection, order_ids: Iterable[str]) -> list[ProductEvent]:
    if not (ids := list(order_ids)):
        return []
    await connection.execute(_ADJUST, ids)
    return [ProductEvent(*row) for row in await connection.fetch(_GIVE_BACK, ids)]
