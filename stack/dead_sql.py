"""Dead letters as `./headrace dead` sees them: which are meant, what they are, and how some are taken for a replay."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stack.audit import Connection


@dataclass(frozen=True, slots=True)
class Filters:
    """Which letters are meant: those for which all of these hold that are given."""

    ids: tuple[int, ...] = ()
    stage: str | None = None
    reason: str | None = None
    order_id: str | None = None
    product_id: str | None = None
    since: datetime | None = None
    """Parked then or later."""
    until: datetime | None = None
    """Parked before."""

    def values(self) -> list[object]:
        """The values of _MEANT, in its order."""
        product = self.product_id.encode() if self.product_id else None
        return [list(self.ids) or None, self.stage, self.reason, self.order_id, product, self.since, self.until]


@dataclass(frozen=True, slots=True)
class Letter:
    id: int
    order_id: str | None
    stage: str
    reason: str
    detail: str
    schema_version: int | None
    """As the message said; None: it did not, or in no number."""
    first_seen_at: datetime
    replayed_at: datetime | None
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A letter that this replay has taken, and no other can have meanwhile."""

    id: int
    stage: str
    schema_version: int | None
    body: bytes


# The product's id as its bytes are in the body: a letter has no column for it, and most are of one order.
_MEANT = """
    ($1::bigint[] IS NULL OR id = ANY($1)) AND ($2::text IS NULL OR stage = $2) AND ($3::text IS NULL OR reason = $3)
    AND ($4::uuid IS NULL OR order_id = $4) AND ($5::bytea IS NULL OR position($5::bytea IN body) > 0)
    AND ($6::timestamptz IS NULL OR first_seen_at >= $6) AND ($7::timestamptz IS NULL OR first_seen_at < $7)
"""
_COLUMNS = """
    id, order_id::text, stage, reason, detail, schema_version, first_seen_at, replayed_at,
    octet_length(body) AS body_bytes
"""
_LIST = f"""
    SELECT {_COLUMNS} FROM dead_letters WHERE {_MEANT} AND ($8 OR replayed_at IS NULL) ORDER BY id DESC LIMIT $9
"""
_COUNT = f"""
    SELECT stage, reason, count(*) FROM dead_letters WHERE {_MEANT} AND replayed_at IS NULL
    GROUP BY stage, reason ORDER BY stage, reason
"""
_SHOW = f"SELECT {_COLUMNS}, body FROM dead_letters WHERE id = $1"
_LAST = "SELECT coalesce(max(id), 0) FROM dead_letters"
# Who parks the same again waits for the end of the transaction that has taken it, and parks it if it was replayed: the
# unique index has it so. With a lock alone (FOR UPDATE), it would not wait, and find one that still waits for its
# replay; which is then marked, and the order is nowhere.
_TAKE = f"""
    WITH taken AS (
        SELECT id FROM dead_letters WHERE {_MEANT} AND replayed_at IS NULL AND id > $8 AND id <= $9
        ORDER BY id LIMIT $10 FOR UPDATE SKIP LOCKED
    )
    UPDATE dead_letters d SET replayed_at = clock_timestamp() FROM taken WHERE d.id = taken.id
    RETURNING d.id, d.stage, d.schema_version, d.body
"""
_PUT_BACK = "UPDATE dead_letters SET replayed_at = NULL WHERE id = ANY($1::bigint[])"


async def list_letters(connection: Connection, filters: Filters, *, replayed: bool, limit: int) -> list[Letter]:
    """The latest first. `replayed`: also those that do not wait any more."""
    return [_letter(row) for row in await connection.fetch(_LIST, *filters.values(), replayed, limit)]


async def count_waiting(connection: Connection, filters: Filters) -> Counter[tuple[str, str]]:
    """How many wait for their replay, by stage and reason."""
    rows = await connection.fetch(_COUNT, *filters.values())
    return Counter({(row["stage"], row["reason"]): row["count"] for row in rows})


async def show_letter(connection: Connection, letter_id: int) -> tuple[Letter, bytes] | None:
    """A letter and its body."""
    row = await connection.fetchrow(_SHOW, letter_id)
    return None if row is None else (_letter(row), row["body"])


async def last_letter(connection: Connection) -> int:
    """The id of the newest. What is parked from now on has a higher one."""
    last: int = await connection.fetchval(_LAST)
    return last


async def take(connection: Connection, filters: Filters, after: int, last: int, limit: int) -> list[Taken]:
    """Mark letters as replayed, in the caller's transaction, in their order: none that another replay has taken."""
    rows = await connection.fetch(_TAKE, *filters.values(), after, last, limit)
    return sorted((Taken(*row) for row in rows), key=lambda it: it.id)


async def put_back(connection: Connection, letters: list[int]) -> None:
    """In the transaction that has taken them: they go on waiting."""
    await connection.execute(_PUT_BACK, letters)


def _letter(row: Any) -> Letter:
    return Letter(**{name: row[name] for name in Letter.__slots__})
