"""A cancellation on the wire: a client takes back an order. A message body is a JSON array of such objects.

A cancellation is idempotent by nature: the same client's second one finds the first. It may overtake its order, because
ingest_api accepts it before the order is stored. So it names its client, and product_consumer checks whether that
client may cancel the order.
"""

from datetime import UTC
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from pipeline.contract.fields import EXAMPLE_ORDER, Moment

SCHEMA = 1
"""The version of the message body. A reader parks what it does not know; it never guesses."""

CancelReason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[^\u0000]*$",  # PostgreSQL cannot store a NUL
        description="Why the client cancels the order, in its own words.",
        examples=["the customer changed her mind"],
    ),
]


class CancelOutcome(StrEnum):
    """What became of a cancellation: the column `outcome` of `cancellations`, and a label of the metric."""

    meaning: str
    """One sentence or two, for an operator."""

    def __new__(cls, name: str, meaning: str) -> "CancelOutcome":
        outcome = str.__new__(cls, name)
        outcome._value_, outcome.meaning = name, meaning
        return outcome

    BEFORE_VERDICT = "before_verdict", "The order was not decided yet. It is CANCELLED, and takes no stock."
    RETURNED = "returned", "The order was PROCESSED. It is CANCELLED, and its units went back into the stock."
    TOO_LATE = "too_late", "The order was FAILED for ever, or CANCELLED already. Nothing changed."
    NOT_YOURS = "not_yours", "The order belongs to another client. Nothing changed."


IS_EFFECTIVE = f"outcome IN ('{CancelOutcome.BEFORE_VERDICT}', '{CancelOutcome.RETURNED}')"
"""SQL: whether a cancellation has made its order CANCELLED, which at most one has. The condition of an index."""


class Cancellation(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client's request to cancel an order, as accepted."""

    order_id: Annotated[
        str,
        Meta(
            pattern=r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$",
            max_length=36,  # `$` would let a newline by
            description="Of the order, which need not be stored yet.",
            examples=[EXAMPLE_ORDER],
        ),
    ]
    requested_at: Moment
    client: Annotated[
        str, Meta(max_length=64, pattern=r"^[^\u0000]*$", description="Who cancels; empty where the service is open.")
    ] = ""
    sees_all: Annotated[bool, Meta(description="Whether the client may cancel the orders of others.")] = False
    reason: CancelReason | None = None


class InvalidCancellation(ValueError):
    """Bytes that are no cancellation. The text says why."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Cancellation)
# UnicodeDecodeError: msgspec raises no DecodeError for text that is not UTF-8.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_cancellation(cancellation: Cancellation) -> bytes:
    return _encoder.encode(cancellation)


def decode_cancellation(encoded: bytes) -> Cancellation:
    """Raises InvalidCancellation, also for values that PostgreSQL would refuse."""
    try:
        found = _decoder.decode(encoded)
    except _MALFORMED as error:
        raise InvalidCancellation(str(error)) from error
    if found.requested_at.tzinfo is None:
        raise InvalidCancellation("requested_at has no time zone")
    try:
        found.requested_at.astimezone(UTC)
    except OverflowError as error:
        raise InvalidCancellation("requested_at is before or after all times that there are in UTC") from error
    return found
