"""`dead discard`: gives dead letters up. Their orders are FAILED for ever.

Discarding writes the verdict, a row of `stock_ledger`. Its primary key stops a later redelivery or a client's retry
with the same Idempotency-Key: such an order may still be stored, but it is decided already and takes no stock. Letter
and verdict are settled in one transaction.

A cancellation that waits for such an order comes too late: the order is FAILED. It is settled after the commit. One
that is stored before the commit is then seen here, and one that is stored later sees the verdict.

No verdict is written for input without a readable order id. None is written for an id_conflict either: the order
stored under that id has a verdict of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import asyncpg

from pipeline.contract.cancellations import CancelOutcome
from pipeline.contract.orders import SCHEMAS, InvalidOrder, Order, decode_order, split_body
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from proof.accounting_sql import Connection
from stack.operate.dead.sql import Filters, last_letter, some_to_discard

Discarded: TypeAlias = Counter[tuple[str, str]]
"""Number of letters by stage and reason."""

# Letters in one transaction. A worker that parks one of them again waits for the transaction.
_MOST_AT_ONCE = 500
MOST_CHARACTERS = 500

# Product and quantity come from the stored order, else from the letter's body; those of a basket, which has many, are
# in neither. A letter of stage persist is no verdict on an order that is stored.
_DECIDE = f"""
    INSERT INTO stock_ledger (order_id, product_id, quantity, line_count, outcome, reason)
    SELECT i.id, d.product_id, d.quantity, d.line_count, 'FAILED', i.reason
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::integer[], $6::smallint[])
        AS i (id, stage, reason, product_id, quantity, line_count)
    LEFT JOIN orders o ON o.id = i.id AND o.line = 0
    CROSS JOIN LATERAL (
        SELECT o.product_id, o.quantity, NULL::smallint AS line_count WHERE o.id IS NOT NULL AND o.line_count IS NULL
        UNION ALL SELECT NULL, NULL, o.line_count WHERE o.id IS NOT NULL AND o.line_count IS NOT NULL
        UNION ALL SELECT i.product_id, i.quantity, i.line_count WHERE o.id IS NULL
    ) d
    WHERE i.stage = '{Stage.STOCK}' OR o.id IS NULL
    ON CONFLICT (order_id) DO NOTHING
    RETURNING order_id
"""
# A decided order needs none of its other letters.
_DISCARD_OTHERS = f"""
    UPDATE dead_letters SET discarded_at = clock_timestamp(), discard_reason = $2
    WHERE order_id = ANY($1::uuid[]) AND replayed_at IS NULL AND discarded_at IS NULL
      AND NOT (stage = '{Stage.PERSIST}' AND reason = '{Reason.ID_CONFLICT}')
    RETURNING stage, reason
"""
_TOO_LATE = f"""
    UPDATE cancellations c SET outcome = '{CancelOutcome.TOO_LATE}', settled_at = clock_timestamp()
    WHERE order_id = ANY($1::uuid[]) AND c.outcome IS NULL
      AND EXISTS (SELECT FROM stock_ledger l WHERE l.order_id = c.order_id AND l.outcome = 'FAILED')
"""


class Ordered(NamedTuple):
    """What an order asks for, as the ledger has it: product and quantity, or how many lines."""

    product_id: str | None = None
    quantity: int | None = None
    line_count: int | None = None


def ordered(body: bytes, schema_version: int | None, order_id: str) -> Ordered:
    """What a letter's body says of the order; nothing if it does not hold it in a schema that we know."""
    if schema_version not in SCHEMAS:
        return Ordered()
    try:
        orders = [decode_order(element) for element in split_body(body)]
    except InvalidOrder:
        return Ordered()
    of_it = [it for it in orders if it.id == order_id]
    if len(of_it) != 1:
        return Ordered()
    (order,) = of_it
    if isinstance(order, Order):
        return Ordered(order.product_id, order.quantity)
    return Ordered(line_count=len(order.lines))


# ── I/O below


async def discard(connection: Connection, filters: Filters, why: str, done: Discarded) -> None:
    """Discard the matching letters that wait now. Keeps `done` up to date.

    Raises asyncpg errors and OSError. The letters in `done` are discarded; the outcome of the last few is unknown.
    """
    last = await last_letter(connection)
    while True:
        async with connection.transaction():
            letters = await some_to_discard(connection, filters, last, _MOST_AT_ONCE, why)
            others = await _decide(connection, [it for it in letters if it["order_id"]], why)
        await connection.execute(_TOO_LATE, [it["order_id"] for it in letters if it["order_id"]])
        done.update((it["stage"], it["reason"]) for it in (*letters, *others))
        if len(letters) < _MOST_AT_ONCE:
            return


async def _decide(connection: Connection, letters: Sequence[asyncpg.Record], why: str) -> Sequence[asyncpg.Record]:
    """Write verdicts on these letters' orders. Returns the orders' other letters, which it discards too."""
    said = [ordered(it["body"], it["schema_version"], it["order_id"]) for it in letters]
    columns = ([it[name] for it in letters] for name in ("order_id", "stage", "reason"))
    ordered_columns = ([it[place] for it in said] for place in range(len(Ordered._fields)))
    decided = await connection.fetch(_DECIDE, *columns, *ordered_columns)
    others: Sequence[asyncpg.Record] = await connection.fetch(_DISCARD_OTHERS, [it["order_id"] for it in decided], why)
    return others
