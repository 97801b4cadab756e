"""The reasons why an order is FAILED: every `reason` that `GET` may answer. Code, OpenAPI and documents derive from it.

A verdict is final. The reason of a dead letter is not: an operator may replay the letter, and then the order may still
become PROCESSED.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum, auto


class Origin(Enum):
    """Who gives the reason."""

    VERDICT = auto()
    """product_consumer, when it decides the order."""
    WORKER = auto()
    """A worker that parks the order as a dead letter."""
    BROKER = auto()
    """RabbitMQ, in the x-death header of a message that it dead-letters."""


class Reason(StrEnum):
    """Why an order is FAILED. The unit tests name the table in docs/ that a new one has to join."""

    origin: Origin
    meaning: str
    """One sentence or two, for a client and an operator."""

    def __new__(cls, name: str, origin: Origin, meaning: str) -> "Reason":
        reason = str.__new__(cls, name)
        reason._value_, reason.origin, reason.meaning = name, origin, meaning
        return reason

    OUT_OF_STOCK = "out_of_stock", Origin.VERDICT, "Fewer units were left than the order asks for."
    UNKNOWN_PRODUCT = "unknown_product", Origin.VERDICT, "No such product existed when the order was decided."
    PRODUCT_DELETED = "product_deleted", Origin.VERDICT, "The product was deleted before the order was decided."

    INVALID_DATA = (
        "invalid_data",
        Origin.WORKER,
        "PostgreSQL refuses the order. The dead letter's `detail` says why, with the SQLSTATE.",
    )
    ID_CONFLICT = "id_conflict", Origin.WORKER, "Another order is stored under the same id."
    UNREADABLE = "unreadable", Origin.WORKER, "The message is no JSON, or holds no order."
    UNKNOWN_SCHEMA = "unknown_schema", Origin.WORKER, "The message has a schema version that the worker does not read."

    DELIVERY_LIMIT = (
        "delivery_limit",
        Origin.BROKER,
        "RabbitMQ delivered the message as often as its queue allows. Workers died or restarted with it in hand.",
    )
    REJECTED = "rejected", Origin.BROKER, "A consumer rejected the message. Headrace's own workers never do."
    EXPIRED = "expired", Origin.BROKER, "A policy with `message-ttl` at the broker removed the message."
    MAXLEN = "maxlen", Origin.BROKER, "A policy with `max-length` and `drop-head` at the broker removed the message."

    DEAD_LETTERED = "dead_lettered", Origin.WORKER, "The message was in `orders.dead` and does not say why."


BROKER_REASONS: Mapping[str, Reason] = {it.value: it for it in Reason if it.origin is Origin.BROKER}
"""By RabbitMQ's own names for them, which are ours as well."""


def table_rows(*, verdicts: bool) -> list[str]:
    """Rows of a Markdown table: the reasons of verdicts, or of dead letters."""
    return [f"| `{it}` | {it.meaning} |" for it in Reason if (it.origin is Origin.VERDICT) is verdicts]
