"""The stock formula of P3: qty >= 0, and qty = Σ stock adjustments − Σ quantity of the lines of PROCESSED orders.

The verdict on an order of one line has the product and the quantity. The verdict on a basket has neither: its lines are
its rows in `orders`.

The accounting, the audit and the benchmarks take it from here. tests/support/data/products.py states it once more, on
purpose: a mistake made here must not hide the same mistake from the tests.

It stands here as SQL, so that the database finds the few wrong products among many, and in Python. A test holds both to
the same verdicts.
"""

from __future__ import annotations

UNBALANCED = "(qty IS NULL OR qty < 0 OR qty <> adjusted - processed)"
"""SQL: whether a row of `balances` is wrong. `qty` is null for a product that has no row."""


def expected_qty(adjusted: int, processed: int) -> int:
    """The stock that adjustments and PROCESSED orders explain."""
    return adjusted - processed


def is_balanced(qty: int | None, adjusted: int, processed: int) -> bool:
    """Whether P3 holds for a product. `qty` None: it has no row."""
    return qty is not None and qty >= 0 and qty == expected_qty(adjusted, processed)


def balances(of: str = "true") -> str:
    """SQL: product_id, qty, adjusted, processed of each product that has a row, an adjustment or a PROCESSED order.

    `of`: a condition on product_id.
    """
    return f"""
    SELECT product_id, max(qty) AS qty, sum(delta)::bigint AS adjusted, sum(quantity)::bigint AS processed
    FROM (
        SELECT product_id, qty, 0 AS delta, 0 AS quantity FROM (SELECT id AS product_id, qty FROM products) p WHERE {of}
        UNION ALL SELECT product_id, NULL, sum(delta), 0 FROM stock_adjustments WHERE {of} GROUP BY product_id
        UNION ALL SELECT product_id, NULL, 0, sum(quantity) FROM stock_ledger
                  WHERE outcome = 'PROCESSED' AND line_count IS NULL AND {of} GROUP BY product_id
        UNION ALL SELECT product_id, NULL, 0, sum(quantity)
                  FROM (
                      SELECT o.product_id, o.quantity FROM orders o JOIN stock_ledger l ON l.order_id = o.id
                      WHERE o.line_count IS NOT NULL AND l.line_count IS NOT NULL AND l.outcome = 'PROCESSED'
                  ) AS lines_of_baskets
                  WHERE {of} GROUP BY product_id
    ) AS changes
    GROUP BY product_id
    """
