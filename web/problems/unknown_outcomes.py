"""503 `outcome-unknown`, one for each cause: what is unknown, why, and what to do. Retry-After is in seconds."""

from web.problems import kinds
from web.problems.problems import Problem

_AGAIN = " Send it again with the same Idempotency-Key: that makes one order at most."
_FORGOTTEN = (
    "Redis cannot be reached, or has lost its memory, so the answer to an earlier request with this Idempotency-Key is"
    " not known."
)

_ONLY_STORED = " The stored order will be the answer."


def broker_is_silent(retry_after_s: int = 1) -> Problem:
    detail = (
        "The broker did not confirm the order in time, so the order may or may not be accepted."
        " With the same Idempotency-Key it is safe to send it again; without one, that may make a second order."
    )
    return Problem(kinds.OUTCOME_UNKNOWN, detail, retry_after_s=retry_after_s)


def cancellation_unanswered(retry_after_s: int = 1) -> Problem:
    detail = (
        "The broker did not confirm the cancellation in time, so the order may or may not be cancelled. Send it again:"
        " to cancel an order twice is to cancel it once."
    )
    return Problem(kinds.OUTCOME_UNKNOWN, detail, retry_after_s=retry_after_s)


def store_is_behind() -> Problem:
    """The order is published, and only the stored order can be its answer."""
    detail = f"The order is published, but the database has not stored it in time. {_FORGOTTEN}{_ONLY_STORED}"
    return _of_order(detail, "the store is behind, and Redis's memory is not settled")


def store_is_silent(cause: str) -> Problem:
    """As store_is_behind, but the database does not answer."""
    detail = f"The order may be accepted, but the database does not answer. {_FORGOTTEN}{_ONLY_STORED}"
    return _of_order(detail, cause)


def refused_after_a_loss() -> Problem:
    """The order is refused now; one that was accepted before may not be stored yet."""
    detail = f"The order would be refused now, but may have been accepted before. {_FORGOTTEN}"
    return _of_order(detail, "a refusal, and Redis's memory is not settled")


def forgotten_while_keys_are_replaced() -> Problem:
    detail = f"{_FORGOTTEN} And the service's secret keys are being replaced, so its order may have another id."
    return _of_order(detail, "ORDER_ID_KEY has several keys, and Redis's memory is not settled")


def stored_under_another_key() -> Problem:
    """The order is claimed under one secret key of ORDER_ID_KEY, and stored under another."""
    detail = (
        "The service's secret keys are being replaced, and this Idempotency-Key has just been found under two of them."
        " The next request looks up both, and learns which order is the answer."
    )
    return _of_order(detail, "a claim under one key of ORDER_ID_KEY, and a row under another")


def claim_is_unreadable() -> Problem:
    detail = (
        "Redis has an entry for this Idempotency-Key that cannot be read. So the answer is not known before the order"
        " is stored."
    )
    return _of_order(detail, "a claim in Redis that cannot be read")


def claimed_under_another_key() -> Problem:
    """The order may exist under a secret key of ORDER_ID_KEY that this process does not have."""
    detail = (
        "Another process took a request with this Idempotency-Key a moment ago, under a secret key that this process"
        " does not have. So this process cannot tell whether the order is accepted."
    )
    cause = "a claim under an unknown key: processes differ in ORDER_ID_KEY, or two deployments share a REDIS_NAMESPACE"
    return _of_order(detail, cause)


def change_unanswered(path: str, *, is_new: bool) -> Problem:
    """`path`: where the product is, or would be."""
    look = "if it is there, it was created" if is_new else "if it has the values that you sent, the change was made"
    detail = (
        f"The database did not say whether it has made the change. GET {path} before sending it again: {look}."
        " Orders change qty and the ETag as well."
    )
    return Problem(kinds.OUTCOME_UNKNOWN, detail, retry_after_s=1)


def _of_order(detail: str, cause: str) -> Problem:
    return Problem(kinds.OUTCOME_UNKNOWN, detail + _AGAIN, retry_after_s=1, cause=cause)
