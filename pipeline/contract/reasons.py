"""The reasons why an order is FAILED: every `reason` that `GET` may answer. Code, OpenAPI and documents derive from it.

A verdict is final. A dead letter's reason is not: until an operator discards the letter, a replay may still make the
order PROCESSED.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    name: str
    meaning: str
    """One line for a client and an operator."""
    is_verdict: bool = False
    """Whether it is a verdict of product_consumer; otherwise it is the reason of a dead letter."""


OUT_OF_STOCK = "out_of_stock"
UNKNOWN_PRODUCT = "unknown_product"
PRODUCT_DELETED = "product_deleted"

INVALID_DATA = "invalid_data"
ID_CONFLICT = "id_conflict"
UNREADABLE = "unreadable"
UNKNOWN_SCHEMA = "unknown_schema"

# RabbitMQ's own reasons for dead-lettering a message.
DELIVERY_LIMIT = "delivery_limit"
REJECTED = "rejected"
EXPIRED = "expired"
MAXLEN = "maxlen"
BROKER_REASONS = frozenset({DELIVERY_LIMIT, REJECTED, EXPIRED, MAXLEN})
DEAD_LETTERED = "dead_lettered"

REASONS = (
    Reason(OUT_OF_STOCK, "fewer units were left than were ordered", is_verdict=True),
    Reason(UNKNOWN_PRODUCT, "the product never was, when the order was decided", is_verdict=True),
    Reason(PRODUCT_DELETED, "the product was deleted before the order was decided", is_verdict=True),
    Reason(INVALID_DATA, "PostgreSQL refused the row; the dead letter's `detail` has the SQLSTATE and why"),
    Reason(ID_CONFLICT, "another order is stored under this id"),
    Reason(UNREADABLE, "no order, or no JSON"),
    Reason(UNKNOWN_SCHEMA, "the message says a version that this worker does not read"),
    Reason(
        DELIVERY_LIMIT,
        "the broker gave the message up: it came back 100 times, because workers died or restarted with it in hand",
    ),
    Reason(REJECTED, "somebody rejected the message; no worker of ours does"),
    Reason(EXPIRED, "a `message-ttl` that somebody set at the broker removed the message"),
    Reason(MAXLEN, "a `max-length` with `drop-head` that somebody set at the broker removed the message"),
    Reason(DEAD_LETTERED, "it was in `orders.dead`, and does not say why"),
)


def table_rows(*, verdicts: bool) -> list[str]:
    """Rows of a Markdown table: the reasons of verdicts, or of dead letters."""
    return [f"| `{it.name}` | {it.meaning} |" for it in REASONS if it.is_verdict is verdicts]
