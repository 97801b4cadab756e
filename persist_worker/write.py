"""Write a batch of orders to PostgreSQL, each once, by one of three paths.

    direct    COPY straight into `orders`: one statement, one fsync. Nearly every batch takes this path.
    staging   COPY into a temporary table, then INSERT … ON CONFLICT DO NOTHING: some rows exist, or letters are parked.
    bisect    staging, and halving to find the rows that PostgreSQL refuses: k bad rows of n cost O(k log n) COPYs.

A batch commits at once, its dead letters included.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from database.connection import Connection
from database.copy_text import copy_rows
from database.dead_letters import DeadLetter, count_parked, park
from database.faults import Fault, describe, fault_of
from pipeline.contract.columns import names_of
from pipeline.contract.orders import COLUMNS, Order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from pipeline.process import metrics

# The staging table has the constraints of `orders`, so it refuses the same rows, and halving finds them here.
_CREATE_STAGING = """
    CREATE TEMPORARY TABLE orders_staging (LIKE orders INCLUDING DEFAULTS INCLUDING CONSTRAINTS) ON COMMIT DELETE ROWS
"""
_NAMES = names_of(COLUMNS)
_FROM_STAGING = f"""
    INSERT INTO orders ({_NAMES}) SELECT {_NAMES} FROM orders_staging ON CONFLICT (id) DO NOTHING
    RETURNING id::text, product_id::text, quantity
"""
# Another order is stored under the same id: a clash of ids, not a redelivery. See pipeline.contract.order_ids.
_STRANGERS = """
    SELECT s.id::text, s.product_id::text, s.quantity FROM orders_staging s JOIN orders o USING (id)
    WHERE (s.product_id, s.quantity) IS DISTINCT FROM (o.product_id, o.quantity)
"""
# Equal for two deliveries of one order. Differs between two orders that share an id by accident.
Identity = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch, after its commit. Rows that were stored before are in none of its lists."""

    path: str
    stored: list[Order]
    """The new rows."""
    parked: list[DeadLetter] = field(default_factory=list)
    """The new letters, without those that are parked already."""
    refused: list[Order] = field(default_factory=list)
    """Orders that are not stored: they must not reach product_consumer."""


async def prepare(connection: Connection) -> None:
    """Create the staging table on a new connection."""
    await connection.execute(_CREATE_STAGING)


async def write(connection: Connection, orders: list[Order], dead: list[DeadLetter]) -> Written:
    """Store `orders` (each once) and park `dead`, in one commit. Safe to repeat. Raises PASSING faults."""
    path = "staging"
    if not dead:
        try:
            await copy_rows(connection, "orders", COLUMNS, orders)
            return _counted(Written("direct", orders))
        except Exception as error:
            if (fault := fault_of(error)) not in (Fault.DUPLICATE, Fault.DATA):
                raise
            path = "bisect" if fault is Fault.DATA else "staging"
    return _counted(await _write_staged(connection, path, orders, dead))


def each_once(orders: Iterable[Order]) -> list[Order]:
    """Drop duplicates, keep the first of each, and sort by id.

    Sorted, because two workers that were given the same orders must not deadlock.
    """
    once: dict[Identity, Order] = {}
    for order in orders:
        once.setdefault(identity(order), order)
    return sorted(once.values(), key=_id)


def _id(order: Order) -> str:
    return order.id


def identity(order: Order) -> Identity:
    return order.id, order.product_id, order.quantity


# ── I/O below


async def _write_staged(connection: Connection, path: str, orders: list[Order], dead: list[DeadLetter]) -> Written:
    async with connection.transaction():
        bad = await _stage(connection, orders)
        by_identity = {identity(order): order for order in orders}
        stored = [by_identity[tuple(row)] for row in await connection.fetch(_FROM_STAGING)]
        strangers = [by_identity[tuple(row)] for row in await connection.fetch(_STRANGERS)]
        letters = [
            *dead,
            *(DeadLetter.of_order(order, Reason.INVALID_DATA, detail) for order, detail in bad),
            *(DeadLetter.of_order(it, Reason.ID_CONFLICT, "another order is stored under this id") for it in strangers),
        ]
        parked = await park(connection, Stage.PERSIST, letters)
    refused = [*(order for order, _ in bad), *strangers]
    return Written("bisect" if bad else path, stored, parked, refused)


async def _stage(connection: Connection, orders: list[Order]) -> list[tuple[Order, str]]:
    """COPY into the staging table, halving around rows that it refuses. Returns those, each with PostgreSQL's error."""
    if not orders:
        return []
    try:
        async with connection.transaction():  # a savepoint
            await copy_rows(connection, "orders_staging", COLUMNS, orders)
        return []
    except Exception as error:
        if fault_of(error) is not Fault.DATA:
            raise
        if len(orders) == 1:
            return [(orders[0], describe(error))]
    middle = len(orders) // 2
    return await _stage(connection, orders[:middle]) + await _stage(connection, orders[middle:])


def _counted(written: Written) -> Written:
    metrics.COPY_PATH.labels(written.path).inc()
    metrics.ROWS_STORED.inc(len(written.stored))
    metrics.ACCEPT_TO_STORED.observe_since(order.created_at for order in written.stored)
    count_parked(Stage.PERSIST, written.parked)
    return written
