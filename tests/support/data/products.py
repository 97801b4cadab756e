"""Products as tests make and audit them."""

from dataclasses import dataclass
from typing import Any

import asyncpg

# P3: at every commit, for every product. What comes back is what does not add up.
# The formula of proof/stock.py, written a second time on purpose: the tests must not believe what they test. All tests
# take it from here.
_UNBALANCED = """
    SELECT p.id::text, p.qty, coalesce(a.total, 0) AS adjusted, coalesce(l.total, 0) AS processed
    FROM products p
    LEFT JOIN (SELECT product_id, sum(delta) AS total FROM stock_adjustments GROUP BY product_id) a
      ON a.product_id = p.id
    LEFT JOIN (SELECT product_id, sum(quantity) AS total FROM stock_ledger WHERE outcome = 'PROCESSED'
               GROUP BY product_id) l
      ON l.product_id = p.id
    WHERE p.qty <> coalesce(a.total, 0) - coalesce(l.total, 0) OR p.qty < 0
"""


@dataclass(frozen=True)
class Audit:
    """Looks into the database, past all services."""

    connection: "asyncpg.Connection[asyncpg.Record]"

    async def unbalanced(self) -> list[dict[str, Any]]:
        """The products whose qty is not what adjustments and orders make it; [] if the books are right."""
        return [dict(row) for row in await self.connection.fetch(_UNBALANCED)]

    async def adjustments(self, product_id: str) -> list[tuple[int, str]]:
        """(delta, reason), in order."""
        query = "SELECT delta, reason FROM stock_adjustments WHERE product_id = $1 ORDER BY id"
        return [(row["delta"], row["reason"]) for row in await self.connection.fetch(query, product_id)]

    async def qty(self, product_id: str) -> int:
        qty: int = await self.connection.fetchval("SELECT qty FROM products WHERE id = $1", product_id)
        return qty
