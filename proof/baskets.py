"""All lines of a basket are stored, or none. The accounting and the audit take the question from here."""

from __future__ import annotations


def half_baskets(of: str = "true") -> str:
    """SQL: id, line_count, and the numbers of the stored lines of each basket whose rows are not exactly its lines.

    `of`: a condition on the columns of `orders`. It must hold for all rows of an order, or for none.
    """
    # The numbers are looked up for broken baskets alone: sorted in each group, they took three quarters of the time.
    return f"""
    SELECT id::text, lines, (SELECT string_agg(line::text, ', ' ORDER BY line) FROM orders WHERE id = broken.id)
    FROM (
        SELECT id, max(line_count)::int AS lines FROM orders
        WHERE (line_count IS NOT NULL OR line > 0) AND {of} GROUP BY id
        HAVING count(*) <> max(line_count) OR min(line_count) <> max(line_count) OR count(line_count) < count(*)
               OR bit_or(1::bigint << line) <> (1::bigint << max(line_count)) - 1
    ) AS broken
    """
