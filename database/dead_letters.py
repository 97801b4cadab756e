"""Parked input: what could not be stored or decided, with the reason, byte by byte as it came."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from database.connection import Connection
from pipeline import metrics
from pipeline.incoming import Unreadable
from pipeline.orders import Order, encode_order, join_orders

UNREADABLE = "unreadable"
UNKNOWN_SCHEMA = "unknown_schema"
INVALID_DATA = "invalid_data"
ID_CONFLICT = "id_conflict"

# A batch that is delivered again brings its poison again; what waits for its replay already is not parked twice.
_PARK = """
    INSERT INTO dead_letters (order_id, stage, reason, detail, body) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (stage, sha256(body)) WHERE replayed_at IS NULL DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    order_id: str | None
    """As the input has it; it need not be a UUID."""
    reason: str
    """One of the words above: what GET says of the order."""
    detail: str
    body: bytes
    """A message body: a JSON array of orders, if it was readable at all."""

    @classmethod
    def of(cls, unreadable: Unreadable) -> "DeadLetter":
        reason = UNKNOWN_SCHEMA if unreadable.unknown_schema else UNREADABLE
        return cls(unreadable.order_id, reason, unreadable.detail, unreadable.body)

    @classmethod
    def of_order(cls, order: Order, reason: str, detail: str) -> "DeadLetter":
        return cls(order.id, reason, detail, join_orders([encode_order(order)]))


async def park(connection: Connection, stage: str, letters: Sequence[DeadLetter]) -> None:
    """Write dead letters in the caller's transaction, none a second time. `stage`: persist or stock."""
    rows = [(_uuid(it.order_id), stage, it.reason, _without_nul(it.detail), it.body) for it in letters]
    await connection.executemany(_PARK, rows)


def count_parked(stage: str, letters: Sequence[DeadLetter]) -> None:
    """Tell the metrics, once the transaction has committed."""
    for letter in letters:
        metrics.PARKED.labels(stage, letter.reason).inc()


def _uuid(text: str | None) -> str | None:
    try:
        return str(UUID(text)) if text else None
    except ValueError:
        return None


def _without_nul(text: str) -> str:
    """PostgreSQL has no NUL in text, and a detail may quote the input that had one."""
    return text.replace("\0", "\\0")
