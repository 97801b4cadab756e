"""The transaction that moves stock: lock products, drop decided orders, decide, write.

It locks in id order, so that two consumers never deadlock. Only then does it ask the ledger which orders are decided:
their decider held the same locks, so the answer is final. (The other way round, two consumers given the same batch
would both find it undecided, and one of them would fail on the primary key.)

A verdict is one row for each order, whatever its lines. A batch locks the products of all lines in one statement, so
baskets whose products cross do not deadlock either.

The question for the decided orders also finds the cancellations that wait for these orders. Every cancellation that was
committed before the orders were stored is among them: see product_consumer/cancel.py.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from database.connection import Connection
from database.copy_text import copy_rows
from database.dead_letters import DeadLetter, park
from pipeline.contract.cancellations import CancelOutcome
from pipeline.contract.columns import Column
from pipeline.contract.orders import AnyOrder, lines_of
from pipeline.contract.product_events import ProductEvent
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from product_consumer.cancellations import (
    OLDEST_FIRST,
    Settled,
    Waiting,
    orders_with,
    settle_each,
    write_settled,
)
from product_consumer.decide import Decision, Stock, Verdict, decide

# LockRows sits above the sort, so the locks are taken in this order. A join, because PostgreSQL checks a row that it
# waited for against all conditions again. With `id = ANY` of a thousand products, for each of a thousand, two consumers
# did 17,500 orders/s where one did 39,400. PostgreSQL took 58 µs an order instead of 17. With the join, two do 39,800,
# at 24 µs (python -m benchmarks.experiments.scale).
_LOCK = """
    SELECT products.id::text, version, price, qty, deleted_at IS NOT NULL AS deleted
    FROM unnest($1::uuid[]) AS wanted (id) JOIN products ON products.id = wanted.id
    ORDER BY products.id FOR NO KEY UPDATE OF products
"""
# The orders that are decided, as rows without a client, and the cancellations that wait for these orders. EXISTS spares
# the look-ups while no cancellation waits: without it, an order paid 0.3 to 0.8 µs, and with it nothing that could be
# measured (CPU of the backend, batches of 250 and 1,000). While cancellations of others wait, it pays 0.7 to 1.5 µs.
_KNOWN = f"""
    SELECT order_id::text, NULL AS client, NULL AS sees_all FROM stock_ledger WHERE order_id = ANY($1::uuid[])
    UNION ALL (
        SELECT order_id::text, client, sees_all FROM cancellations
        WHERE order_id = ANY($1::uuid[]) AND outcome IS NULL
          AND EXISTS (SELECT FROM cancellations WHERE outcome IS NULL) ORDER BY {OLDEST_FIRST}
    )
"""
_TAKE = """
    UPDATE products p SET qty = p.qty - t.quantity, version = p.version + 1, updated_at = clock_timestamp()
    FROM unnest($1::uuid[], $2::bigint[]) AS t(id, quantity) WHERE p.id = t.id
    RETURNING p.id::text, p.version, p.price, p.qty
"""
# Of stock_ledger, without the time, which PostgreSQL sets. A row is a Verdict.
_COLUMNS = (
    Column("order_id", "uuid"),
    Column("product_id", "uuid"),
    Column("quantity", "integer"),
    Column("outcome", "text"),
    Column("reason", "text"),
)
# Of a batch with baskets, or with orders that found too few units left.
_ALL_COLUMNS = (
    *(it._replace(optional=it.type != "text") for it in _COLUMNS),
    Column("line_count", "smallint", optional=True),
    Column("failed_line", "smallint", optional=True),
    Column("units_left", "bigint", optional=True),
)
_MAX_QUANTITY = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one batch changed, after its commit."""

    verdicts: list[Verdict] = field(default_factory=list)
    products: list[ProductEvent] = field(default_factory=list)
    """Every ordered product that exists, in its new state. Also those of which nothing was taken: another consumer may
    have decided an order of this batch, and died between its commit and its bust.
    """
    settled: list[Settled] = field(default_factory=list)
    """The cancellations that waited for these orders."""
    duplicates: int = 0
    parked: list[DeadLetter] = field(default_factory=list)
    """The new letters, without those that are parked already."""


class Known(NamedTuple):
    """What the database has of a batch, as found under the locks."""

    decided: set[str]
    settled: list[Settled]
    """What becomes of the cancellations that wait for an undecided order."""


def fault_in(order: AnyOrder) -> str | None:
    """Why PostgreSQL would refuse the order, or None. Called only after it has refused the batch."""
    lines = lines_of(order)
    for name, value in (("id", order.id), *(("product_id", line.product_id) for line in lines)):
        try:
            canonical = str(UUID(value))
        except ValueError:
            canonical = ""
        if canonical != value:
            return f"{name} is not a UUID: {value[:80]!r}"
    for line in lines:
        if not 1 <= line.quantity <= _MAX_QUANTITY:
            return f"quantity is out of range: {line.quantity}"
    return None


def known(orders: Iterable[AnyOrder], decided: set[str], waiting: Sequence[Waiting]) -> Known:
    """What becomes of the cancellations that wait for `orders`, of which some are decided."""
    owners = {it.id: it.client for it in orders if it.id not in decided} if waiting else {}
    mine = [it for it in waiting if it.order_id in owners]
    effects = {it.order_id: CancelOutcome.BEFORE_VERDICT for it in mine}
    return Known(decided, settle_each(mine, owners, effects))


def sort_out(orders: Iterable[AnyOrder]) -> tuple[list[AnyOrder], list[DeadLetter]]:
    """Split `orders` into those that can be decided, and the others as dead letters."""
    good: list[AnyOrder] = []
    dead: list[DeadLetter] = []
    for order in orders:
        fault = fault_in(order)
        if fault is None:
            good.append(order)
        else:
            dead.append(DeadLetter.of_order(order, Reason.INVALID_DATA, fault))
    return good, dead


def columns_of(verdicts: Iterable[Verdict]) -> Sequence[Column]:
    """The columns to write: those that any of the rows needs."""
    needs_more = any(it.line_count is not None or it.units_left is not None for it in verdicts)
    return _ALL_COLUMNS if needs_more else _COLUMNS


# ── I/O below


async def record(connection: Connection, orders: Sequence[AnyOrder], dead: list[DeadLetter]) -> Recorded:
    """Decide `orders` (each once) and park `dead`, in one commit. Safe to repeat: decided orders are dropped.

    Raises PostgreSQL's errors: see database.faults. After a DATA fault, `sort_out` finds the malformed orders.
    """
    async with connection.transaction():
        locked = await lock_products(connection, {line.product_id for order in orders for line in lines_of(order)})
        decided, settled = await _look(connection, orders)
        stock = {it.id: Stock(it.qty, it.deleted) for it in locked}
        cancelled = orders_with(CancelOutcome.BEFORE_VERDICT, settled)
        decision = decide(stock, (order for order in orders if order.id not in decided), cancelled)
        changed = await _write(connection, decision)
        await write_settled(connection, settled)
        parked = await park(connection, Stage.STOCK, dead)
    products = {it.id: it for it in (*locked, *changed)}
    return Recorded(decision.verdicts, list(products.values()), settled, len(decided), parked)


async def lock_products(connection: Connection, product_ids: Collection[str]) -> list[ProductEvent]:
    """Lock products until the commit, and return those that exist."""
    return [ProductEvent(*row) for row in await connection.fetch(_LOCK, list(product_ids))]


async def _look(connection: Connection, orders: Sequence[AnyOrder]) -> Known:
    """Call it under the locks."""
    decided, waiting = set(), []
    for order_id, client, sees_all in await connection.fetch(_KNOWN, [order.id for order in orders]):
        if client is None:
            decided.add(order_id)
        else:
            waiting.append(Waiting(order_id, client, sees_all))
    return known(orders, decided, waiting)


async def _write(connection: Connection, decision: Decision) -> list[ProductEvent]:
    if decision.verdicts:
        await copy_rows(connection, "stock_ledger", columns_of(decision.verdicts), decision.verdicts)
    if not decision.taken:
        return []
    rows = await connection.fetch(_TAKE, list(decision.taken), list(decision.taken.values()))
    return [ProductEvent(*row) for row in rows]
