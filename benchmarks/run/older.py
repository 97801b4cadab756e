"""Reads the database of an older release as if it were of this one, so that one accounting judges both.

What the older release lacks is added in temporary views of our connection alone. Its own processes do not see them.
"""

from __future__ import annotations

from benchmarks.run.accounting import Connection

_ADDED = {
    "orders": {"line": "0::smallint", "line_count": "NULL::smallint"},
    "stock_ledger": {"line_count": "NULL::smallint"},
    "stock_adjustments": {"order_id": "NULL::uuid"},
}
"""Table → column → what a row of an older release says."""
_NO_CANCELLATIONS = """
    CREATE TEMP TABLE IF NOT EXISTS cancellations (order_id uuid, outcome text, settled_at timestamptz)
"""
_COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = $1"


async def read_as_ours(connection: Connection) -> None:
    """Prepare a connection to the database of an older release. Changes nothing if it lacks nothing."""
    for table, added in _ADDED.items():
        known = {row[0] for row in await connection.fetch(_COLUMNS, table)}
        if lacking := [f"{value} AS {column}" for column, value in added.items() if column not in known]:
            await connection.execute(f"CREATE TEMP VIEW {table} AS SELECT *, {', '.join(lacking)} FROM public.{table}")
    if not await connection.fetch(_COLUMNS, "cancellations"):
        await connection.execute(_NO_CANCELLATIONS)
