"""Creates products, and audits their stock."""

from dataclasses import dataclass
from typing import Any

import asyncpg

# P3, for every product, at every commit. Selects the products whose stock does not add up.
# Repeats the formula of proof/stock.py on purpose: the tests must not rely on what they test. All tests use this one.
_UNBALANCED = """
    WITH decided AS (SELECT * FROM stock_ledger WHERE outcome = 'PROCESSED'), processed AS (
        SELECT product_id, quantity FROM decided WHERE product_id IS NOT NULL
        UNION ALL SELECT product_id, quantity FROM orders WHERE id IN (
            SELECT order_id FROM decided WHERE product_id IS NULL
        )
    )
    SELECT p.id::text, p.qty, coalesce(a.total, 0) AS adjusted, coalesce(l.total, 0) AS processed
    FROM products p
    LEFT JOIN (SELECT product_id, sum(delta) AS total FROM stock_adjustments GROUP BY product_id) a
      ON a.product_id = p.id
    LEFT JOIN (SELECT product_id, sum(quantity) AS total FROM processed GROUP BY product_id) l ON l.product_id = p.id
    WHERE p.qty <> coalesce(a.total, 0) - coalesce(l.total, 0) OR p.qty < 0
"""


@dataclass(frozen=True)
class Audit:
    """Reads the database directly."""

    connection: "asyncpg.Connection[asyncpg.Record]"

    async def unbalanced(self) -> list[dict[str, Any]]:
        """The products whose qty differs from adjustments minus processed orders; [] if all add up."""
        return [dict(row) for row in await self.connection.fetch(_UNBALANCED)]

    async def adjustments(self, product_id: str) -> list[tuple[int, str]]:
        """(delta, reason) of each adjustment, in order."""
        query = "SELECT delta, reason FROM stock_adjustments WHERE product_id = $1 ORDER BY id"
        return [(row["delta"], row["reason"]) for row in await self.connection.fetch(query, product_id)]

    async def qty(self, product_id: str) -> int:
        qty: int = await self.connection.fetchval("SELECT qty FROM products WHERE id = $1", product_id)
        return qty
