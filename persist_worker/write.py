"""Write a batch of orders to PostgreSQL, each once, by one of three paths.

    direct    COPY straight into `orders`: one statement, one fsync. Nearly every batch takes this path.
    staging   COPY into a temporary table, then INSERT … ON CONFLICT DO NOTHING: some rows exist, or letters are parked.
    bisect    staging, and halving to find the rows that PostgreSQL refuses: k bad rows of n cost O(k log n) COPYs.

A batch commits at once, its dead letters included. An order is stored with all its lines or not at all: they are in one
COPY, halving never parts them, and of an order that exists no line is added.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from database.connection import Connection
from database.copy_text import copy_rows
from database.dead_letters import DeadLetter, count_parked, park
from database.faults import Fault, describe, fault_of
from pipeline.contract.columns import names_of
from pipeline.contract.order_rows import rows_of
from pipeline.contract.orders import COLUMNS, OF_BASKET, AnyOrder, Basket, Order, ordered
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from pipeline.process import metrics

# The staging table has the constraints of `orders`, so it refuses the same rows, and halving finds them here.
_CREATE_STAGING = """
    CREATE TEMPORARY TABLE orders_staging (LIKE orders INCLUDING DEFAULTS INCLUDING CONSTRAINTS) ON COMMIT DELETE ROWS
"""
_NAMES = names_of((*COLUMNS, *OF_BASKET))
# An order's line 0 decides whether the order is new: every order has one, and all its lines are committed together.
_FROM_STAGING = f"""
    INSERT INTO orders ({_NAMES}) SELECT {_NAMES} FROM orders_staging WHERE line = 0 ON CONFLICT (id, line) DO NOTHING
    RETURNING id::text
"""
_OTHER_LINES = f"""
    INSERT INTO orders ({_NAMES}) SELECT {_NAMES} FROM orders_staging WHERE line > 0 AND id = ANY($1::uuid[])
"""
# Another order is stored under the same id: a clash of ids, not a redelivery. See pipeline.contract.order_ids. A line
# that is not there differs, too; and if lines are there that are not staged, line_count differs. A subquery, because
# PostgreSQL knows nothing of the staging table, and would read all of `orders` for a join with it.
_STRANGERS = """
    SELECT id::text FROM orders_staging s WHERE coalesce((
        SELECT (s.product_id, s.quantity, s.line_count) IS DISTINCT FROM (o.product_id, o.quantity, o.line_count)
        FROM orders o WHERE o.id = s.id AND o.line = s.line
    ), true)
"""
_NEXT_TURN = "DELETE FROM orders_staging"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch, after its commit. Orders that were stored before are in none of its lists."""

    path: str
    stored: Sequence[AnyOrder]
    """The new orders."""
    parked: list[DeadLetter] = field(default_factory=list)
    """The new letters, without those that are parked already."""
    refused: list[AnyOrder] = field(default_factory=list)
    """Orders that are not stored: they must not reach product_consumer."""


async def prepare(connection: Connection) -> None:
    """Create the staging table on a new connection."""
    await connection.execute(_CREATE_STAGING)


async def write(connection: Connection, orders: Sequence[AnyOrder], dead: list[DeadLetter]) -> Written:
    """Store `orders` (each once) and park `dead`, in one commit. Safe to repeat. Raises PASSING faults."""
    path = "staging"
    if not dead:
        try:
            await copy_rows(connection, "orders", *rows_of(orders))
            return _counted(Written("direct", orders))
        except Exception as error:
            if (fault := fault_of(error)) not in (Fault.DUPLICATE, Fault.DATA):
                raise
            path = "bisect" if fault is Fault.DATA else "staging"
    return _counted(await _write_staged(connection, path, orders, dead))


def each_once(orders: Iterable[AnyOrder]) -> list[AnyOrder]:
    """Drop duplicates, keep the first of each, and sort by id.

    Sorted, because two workers that were given the same orders must not deadlock.
    """
    once: dict[tuple[object, ...], AnyOrder] = {}
    for order in orders:
        once.setdefault(identity(order), order)
    return sorted(once.values(), key=_id)


def in_turns(orders: Iterable[AnyOrder]) -> Iterator[list[AnyOrder]]:
    """Split orders so that no two of a part have one id: all in one part, but for clashes."""
    left = list(orders)
    while left:
        turn = {order.id: order for order in reversed(left)}
        yield list(reversed(turn.values()))
        left = [order for order in left if turn[order.id] is not order]


def _id(order: AnyOrder) -> str:
    return order.id


def identity(order: AnyOrder) -> tuple[object, ...]:
    """Equal for two deliveries of one order. Differs between two orders that share an id by accident."""
    if isinstance(order, Order):
        return order.id, order.product_id, order.quantity
    return order.id, *ordered(order)


# ── I/O below


async def _write_staged(
    connection: Connection, path: str, orders: Sequence[AnyOrder], dead: list[DeadLetter]
) -> Written:
    stored: list[AnyOrder] = []
    bad: list[tuple[AnyOrder, str]] = []
    strangers: list[AnyOrder] = []
    async with connection.transaction():
        for number, turn in enumerate(in_turns(orders)):
            if number:
                await connection.execute(_NEXT_TURN)
            bad += await _stage(connection, turn)
            new = await _store_staged(connection, turn)
            others = {row["id"] for row in await connection.fetch(_STRANGERS)}
            stored += [order for order in turn if order.id in new]
            strangers += [order for order in turn if order.id in others]
        letters = [
            *dead,
            *(DeadLetter.of_order(order, Reason.INVALID_DATA, detail) for order, detail in bad),
            *(DeadLetter.of_order(it, Reason.ID_CONFLICT, "another order is stored under this id") for it in strangers),
        ]
        parked = await park(connection, Stage.PERSIST, letters)
    return Written("bisect" if bad else path, stored, parked, [*(order for order, _ in bad), *strangers])


async def _stage(connection: Connection, orders: list[AnyOrder]) -> list[tuple[AnyOrder, str]]:
    """COPY into the staging table, halving around orders that it refuses. Returns those, with PostgreSQL's errors."""
    if not orders:
        return []
    try:
        async with connection.transaction():  # a savepoint
            await copy_rows(connection, "orders_staging", *rows_of(orders))
        return []
    except Exception as error:
        if fault_of(error) is not Fault.DATA:
            raise
        if len(orders) == 1:
            return [(orders[0], describe(error))]
    middle = len(orders) // 2
    return await _stage(connection, orders[:middle]) + await _stage(connection, orders[middle:])


async def _store_staged(connection: Connection, orders: list[AnyOrder]) -> set[str]:
    """Store those of `orders` that are staged and new. Returns their ids."""
    new = {row["id"] for row in await connection.fetch(_FROM_STAGING)}
    if baskets := [it.id for it in orders if isinstance(it, Basket) and it.id in new]:
        await connection.execute(_OTHER_LINES, baskets)
    return new


def _counted(written: Written) -> Written:
    metrics.COPY_PATH.labels(written.path).inc()
    metrics.ROWS_STORED.inc(len(written.stored))
    metrics.ACCEPT_TO_STORED.observe_since(order.created_at for order in written.stored)
    count_parked(Stage.PERSIST, written.parked)
    return written
