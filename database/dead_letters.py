"""Parked input: what could not be stored or decided, with the reason.

Input that could not be read is kept byte by byte. An order that could be read is kept as encode_order writes it, which
says the same. With the version that the message gave, so that a replay can say the same again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from database.connection import Connection
from pipeline.broker.incoming import Unreadable
from pipeline.contract.orders import SCHEMA, Order, encode_order, join_orders
from pipeline.contract.reasons import UNKNOWN_SCHEMA, UNREADABLE
from pipeline.process import metrics

# A batch that is delivered again brings its poison again; what waits for its replay already, or was discarded, is not
# parked twice.
_PARK = """
    INSERT INTO dead_letters (stage, order_id, reason, detail, body, schema_version)
    SELECT $1, l.* FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::bigint[]) AS l
    ON CONFLICT (stage, sha256(body)) WHERE replayed_at IS NULL DO NOTHING
    RETURNING sha256(body)
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    order_id: str | None
    """As the input has it; it need not be a UUID."""
    reason: str
    """One of pipeline.contract.reasons: what GET says of the order."""
    detail: str
    body: bytes
    """A message body: a JSON array of orders, if it was readable at all."""
    schema: object = SCHEMA
    """The version of the body, as the message had it; kept if it is a number."""

    @classmethod
    def of(cls, unreadable: Unreadable) -> "DeadLetter":
        reason = UNKNOWN_SCHEMA if unreadable.unknown_schema else UNREADABLE
        return cls(unreadable.order_id, reason, unreadable.detail, unreadable.body, unreadable.schema)

    @classmethod
    def of_order(cls, order: Order, reason: str, detail: str) -> "DeadLetter":
        return cls(order.id, reason, detail, join_orders([encode_order(order)]))


async def park(connection: Connection, stage: str, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Write dead letters in the caller's transaction, none a second time. `stage`: persist or stock.

    Returns those that were written.
    """
    if not letters:
        return []
    rows = [(_uuid(it.order_id), it.reason, _without_nul(it.detail), it.body, _number(it.schema)) for it in letters]
    written = {row[0] for row in await connection.fetch(_PARK, stage, *map(list, zip(*rows, strict=True)))}
    by_hash = {sha256(it.body).digest(): it for it in letters}
    return [it for body_hash, it in by_hash.items() if body_hash in written]


def count_parked(stage: str, letters: Sequence[DeadLetter]) -> None:
    """Tell the metrics, once the transaction has committed."""
    for letter in letters:
        metrics.PARKED.labels(stage, letter.reason).inc()


def _uuid(text: str | None) -> str | None:
    try:
        return str(UUID(text)) if text else None
    except ValueError:
        return None


def _number(schema: object) -> int | None:
    """What a column can have of a header that may be anything."""
    return schema if type(schema) is int and 0 <= schema < 2**63 else None


def _without_nul(text: str) -> str:
    """PostgreSQL has no NUL in text, and a detail may quote the input that had one."""
    return text.replace("\0", "\\0")
