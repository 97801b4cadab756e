"""The transaction that moves stock: lock products, drop decided orders, decide, write.

It locks in id order, so that two consumers never deadlock. Only then does it ask the ledger which orders are decided:
their decider held the same locks, so the answer is final. (The other way round, two consumers given the same batch
would both find it undecided, and one of them would fail on the primary key.)

A verdict is one row for each order, whatever its lines. A batch locks the products of all lines in one statement, so
baskets whose products cross do not deadlock either.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from database.connection import Connection
from database.copy_text import copy_rows
from database.dead_letters import DeadLetter, park
from pipeline.contract.columns import Column
from pipeline.contract.orders import AnyOrder, lines_of
from pipeline.contract.product_events import ProductEvent
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
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
_DECIDED = "SELECT order_id::text FROM stock_ledger WHERE order_id = ANY($1::uuid[])"
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
    duplicates: int = 0
    parked: list[DeadLetter] = field(default_factory=list)
    """The new letters, without those that are parked already."""


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
        locked = await _lock(connection, orders)
        decided = await _already_decided(connection, orders)
        stock = {it.id: Stock(it.qty, it.deleted) for it in locked}
        decision = decide(stock, (order for order in orders if order.id not in decided))
        changed = await _write(connection, decision)
        parked = await park(connection, Stage.STOCK, dead)
    products = {it.id: it for it in (*locked, *changed)}
    return Recorded(decision.verdicts, list(products.values()), len(decided), parked)


async def _lock(connection: Connection, orders: Sequence[AnyOrder]) -> list[ProductEvent]:
    """Lock the products of `orders` until the commit, and return them."""
    products = {line.product_id for order in orders for line in lines_of(order)}
    rows = await connection.fetch(_LOCK, list(products))
    return [ProductEvent(*row) for row in rows]


async def _already_decided(connection: Connection, orders: Sequence[AnyOrder]) -> set[str]:
    return {row["order_id"] for row in await connection.fetch(_DECIDED, [order.id for order in orders])}


async def _write(connection: Connection, decision: Decision) -> list[ProductEvent]:
    if decision.verdicts:
        await copy_rows(connection, "stock_ledger", columns_of(decision.verdicts), decision.verdicts)
    if not decision.taken:
        return []
    rows = await connection.fetch(_TAKE, list(decision.taken), list(decision.taken.values()))
    return [ProductEvent(*row) for row in rows]
