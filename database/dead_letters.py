"""Dead letters: input that could not be stored or decided, parked with the reason.

Unreadable input is kept byte for byte. A readable order is kept as encode_order writes it, which is equivalent. Each
letter keeps the schema version of its message, so that a replay can send the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from database.connection import Connection
from pipeline.broker.incoming import Unreadable
from pipeline.contract.orders import SCHEMA, AnyOrder, encode_order, join_orders, schema_of
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from pipeline.process import metrics

# A redelivered batch brings its poison again. ON CONFLICT skips a letter that already waits for its replay, or was
# discarded.
_PARK = """
    INSERT INTO dead_letters (stage, order_id, reason, detail, body, schema_version)
    SELECT $1, l.* FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::bigint[]) AS l
    ON CONFLICT (stage, sha256(body)) WHERE replayed_at IS NULL DO NOTHING
    RETURNING sha256(body)
"""
# Stops at $1 letters. The index dead_letters_waiting finds them; it has discarded letters as well.
_COUNT = """
    SELECT stage, reason, count(*) FROM (
        SELECT stage, reason FROM dead_letters WHERE replayed_at IS NULL AND discarded_at IS NULL LIMIT $1
    ) AS waiting GROUP BY stage, reason
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    order_id: str | None
    """As in the input; it need not be a UUID."""
    reason: Reason
    """What GET answers for the order."""
    detail: str
    body: bytes
    """A message body: a JSON array of orders, unless the input was unreadable."""
    schema: object = SCHEMA
    """The body's version, as in the message; stored only if it is a number."""

    @classmethod
    def of(cls, unreadable: Unreadable) -> "DeadLetter":
        reason = Reason.UNKNOWN_SCHEMA if unreadable.unknown_schema else Reason.UNREADABLE
        return cls(unreadable.order_id, reason, unreadable.detail, unreadable.body, unreadable.schema)

    @classmethod
    def of_order(cls, order: AnyOrder, reason: Reason, detail: str) -> "DeadLetter":
        return cls(order.id, reason, detail, join_orders([encode_order(order)]), schema_of(order))


async def park(connection: Connection, stage: Stage, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Write dead letters in the caller's transaction, skipping those already parked.

    Returns the letters that are new.
    """
    if not letters:
        return []
    rows = [(_uuid(it.order_id), it.reason, _without_nul(it.detail), it.body, _number(it.schema)) for it in letters]
    written = {row[0] for row in await connection.fetch(_PARK, stage, *map(list, zip(*rows, strict=True)))}
    by_hash = {sha256(it.body).digest(): it for it in letters}
    return [it for body_hash, it in by_hash.items() if body_hash in written]


async def count_waiting(connection: Connection, limit: int) -> dict[tuple[str, str], int]:
    """How many letters wait for a replay or a discard, by stage and reason; all together at most `limit`."""
    return {(row["stage"], row["reason"]): row["count"] for row in await connection.fetch(_COUNT, limit)}


def count_parked(stage: Stage, letters: Sequence[DeadLetter]) -> None:
    """Count the letters in the metrics; call it after the commit."""
    for letter in letters:
        metrics.PARKED.labels(stage, letter.reason).inc()


def _uuid(text: str | None) -> str | None:
    try:
        return str(UUID(text)) if text else None
    except ValueError:
        return None


def _number(schema: object) -> int | None:
    """The header as a bigint, or None if it is not one: a header may hold anything."""
    return schema if type(schema) is int and 0 <= schema < 2**63 else None


def _without_nul(text: str) -> str:
    r"""Escape NUL as \0: PostgreSQL's text takes none, and a detail may quote input that has one."""
    return text.replace("\0", "\\0")
