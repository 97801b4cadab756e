"""SQL of `./headrace dead`: selects, counts, takes and discards dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from proof.accounting_sql import Connection


@dataclass(frozen=True, slots=True)
class Filters:
    """Selects letters: those that match every filter given."""

    ids: tuple[int, ...] = ()
    stage: str | None = None
    reason: str | None = None
    order_id: str | None = None
    product_id: str | None = None
    since: datetime | None = None
    """Parked at this time or later."""
    until: datetime | None = None
    """Parked before this time."""

    def values(self) -> list[object]:
        """The values of _MEANT, in its order."""
        product = self.product_id.encode() if self.product_id else None
        return [list(self.ids) or None, self.stage, self.reason, self.order_id, product, self.since, self.until]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    id: int
    order_id: str | None
    stage: str
    reason: str
    detail: str
    schema_version: int | None
    """As in the message; None: it had none, or not a number."""
    first_seen_at: datetime
    replayed_at: datetime | None
    discarded_at: datetime | None
    discard_reason: str | None
    body_bytes: int


@dataclass(frozen=True, slots=True)
class TakenLetter:
    """A letter that this replay has locked, so no other replay can take it."""

    id: int
    stage: str
    schema_version: int | None
    body: bytes


# Filters by product search the body's bytes: a letter has no column for it, and most letters hold one order.
_MEANT = """
    ($1::bigint[] IS NULL OR id = ANY($1)) AND ($2::text IS NULL OR stage = $2) AND ($3::text IS NULL OR reason = $3)
    AND ($4::uuid IS NULL OR order_id = $4) AND ($5::bytea IS NULL OR position($5::bytea IN body) > 0)
    AND ($6::timestamptz IS NULL OR first_seen_at >= $6) AND ($7::timestamptz IS NULL OR first_seen_at < $7)
"""
_COLUMNS = """
    id, order_id::text, stage, reason, detail, schema_version, first_seen_at, replayed_at, discarded_at, discard_reason,
    octet_length(body) AS body_bytes
"""
_WAITS = "replayed_at IS NULL AND discarded_at IS NULL"
_LISTED = f"{_MEANT} AND ($8 OR replayed_at IS NULL) AND ($9 OR discarded_at IS NULL)"
_LIST = f"SELECT {_COLUMNS} FROM dead_letters WHERE {_LISTED} ORDER BY id DESC LIMIT $10"
_HOW_MANY = f"SELECT count(*) FROM dead_letters WHERE {_LISTED}"
_COUNT = f"""
    SELECT stage, reason, count(*)
    FROM (SELECT stage, reason FROM dead_letters WHERE {_MEANT} AND {_WAITS} ORDER BY id LIMIT $8) AS meant
    GROUP BY stage, reason ORDER BY stage, reason
"""
_SHOW = f"SELECT {_COLUMNS}, body FROM dead_letters WHERE id = $1"
_LAST = "SELECT coalesce(max(id), 0) FROM dead_letters"
# A worker that parks the same order again waits for this transaction, because of the unique index, and parks it if it
# was replayed. With FOR UPDATE alone the worker would not wait, and would find a letter that still waits. That letter
# is then marked as replayed, and the order is lost.
_TAKE = f"""
    WITH taken AS (
        SELECT id FROM dead_letters WHERE {_MEANT} AND {_WAITS} AND id > $8 AND id <= $9
        ORDER BY id LIMIT $10 FOR UPDATE SKIP LOCKED
    )
    UPDATE dead_letters d SET replayed_at = clock_timestamp() FROM taken WHERE d.id = taken.id
    RETURNING d.id, d.stage, d.schema_version, d.body
"""
# Waits for a replay that has taken one of these letters, and skips the letter if it was sent.
_DISCARD = f"""
    WITH taken AS (
        SELECT id FROM dead_letters WHERE {_MEANT} AND {_WAITS} AND id <= $8 ORDER BY id LIMIT $9 FOR UPDATE
    )
    UPDATE dead_letters d SET discarded_at = clock_timestamp(), discard_reason = $10 FROM taken
    WHERE d.id = taken.id AND d.replayed_at IS NULL AND d.discarded_at IS NULL
    RETURNING d.order_id::text, d.stage, d.reason, d.schema_version, d.body
"""
_PUT_BACK = "UPDATE dead_letters SET replayed_at = NULL WHERE id = ANY($1::bigint[])"


@dataclass(frozen=True, slots=True)
class AlsoShown:
    """Which settled letters a list shows besides the waiting ones."""

    replayed: bool = False
    discarded: bool = False


async def list_letters(
    connection: Connection, filters: Filters, also: AlsoShown, limit: int | None
) -> list[DeadLetter]:
    """Newest first. `limit`: None for all."""
    values = (*filters.values(), also.replayed, also.discarded)
    return [_letter(row) for row in await connection.fetch(_LIST, *values, limit)]


async def count_letters(connection: Connection, filters: Filters, also: AlsoShown) -> int:
    """The length of the list without a limit."""
    count: int = await connection.fetchval(_HOW_MANY, *filters.values(), also.replayed, also.discarded)
    return count


async def count_waiting(connection: Connection, filters: Filters, limit: int | None = None) -> Counter[tuple[str, str]]:
    """The number of waiting letters, by stage and reason; only the oldest `limit`."""
    rows = await connection.fetch(_COUNT, *filters.values(), limit)
    return Counter({(row["stage"], row["reason"]): row["count"] for row in rows})


async def show_letter(connection: Connection, letter_id: int) -> tuple[DeadLetter, bytes] | None:
    """A letter and its body."""
    row = await connection.fetchrow(_SHOW, letter_id)
    return None if row is None else (_letter(row), row["body"])


async def last_letter(connection: Connection) -> int:
    """The id of the newest letter. Letters parked later have higher ids."""
    last: int = await connection.fetchval(_LAST)
    return last


async def take(connection: Connection, filters: Filters, after: int, last: int, limit: int) -> list[TakenLetter]:
    """Mark letters as replayed, in the caller's transaction. Ordered by id; skips letters that another replay took."""
    rows = await connection.fetch(_TAKE, *filters.values(), after, last, limit)
    return sorted((TakenLetter(*row) for row in rows), key=lambda it: it.id)


async def some_to_discard(
    connection: Connection, filters: Filters, last: int, limit: int, why: str
) -> Sequence[asyncpg.Record]:
    """Discard letters, in the caller's transaction. Returns order_id, stage, reason, schema_version, body of each."""
    rows: Sequence[asyncpg.Record] = await connection.fetch(_DISCARD, *filters.values(), last, limit, why)
    return rows


async def put_back(connection: Connection, letters: list[int]) -> None:
    """Make letters wait again, in the transaction that took them."""
    await connection.execute(_PUT_BACK, letters)


def _letter(row: Any) -> DeadLetter:
    return DeadLetter(**{name: row[name] for name in DeadLetter.__slots__})
