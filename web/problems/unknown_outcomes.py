"""503 `outcome-unknown`, one for each cause: what is unknown, why, and what to do. Retry-After is in seconds."""

from web.problems import kinds
from web.problems.problems import Problem

_AGAIN = " Send it again with the same Idempotency-Key: that orders once at the most."
_FORGOTTEN = (
    "Redis is away, or has forgotten, and does not say what an earlier request with this Idempotency-Key was told."
)

_ONLY_STORED = " So only what is stored can be its answer."


def broker_is_silent(retry_after_s: int = 1) -> Problem:
    detail = (
        "The broker did not say in time whether it has the order, so it may or may not be accepted."
        " With the same Idempotency-Key it is safe to send it again; without one, that may order twice."
    )
    return Problem(kinds.OUTCOME_UNKNOWN, detail, retry_after_s=retry_after_s)


def store_is_behind() -> Problem:
    """The order is published, and only the stored order can be its answer."""
    detail = f"The order is on its way, and the database has not stored it in time. {_FORGOTTEN}{_ONLY_STORED}"
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
    detail = f"{_FORGOTTEN} And the service's secret keys are being replaced, so its order may come under another id."
    return _of_order(detail, "ORDER_ID_KEY has several keys, and Redis's memory is not settled")


def stored_under_another_key() -> Problem:
    """The order is claimed under one secret key of ORDER_ID_KEY, and stored under another."""
    detail = (
        "The service's secret keys are being replaced, and this Idempotency-Key has just been found under two of them."
        " Which order is the answer is known as soon as both are looked up again."
    )
    return _of_order(detail, "a claim under one key of ORDER_ID_KEY, and a row under another")


def claim_is_unreadable() -> Problem:
    detail = (
        "What Redis remembers of an earlier request with this Idempotency-Key cannot be read. So its answer is"
        " not known before its order is stored."
    )
    return _of_order(detail, "a claim in Redis that cannot be read")


def claimed_under_another_key() -> Problem:
    """The order may exist under a secret key of ORDER_ID_KEY that this process does not have."""
    detail = (
        "This Idempotency-Key was used a moment ago with another process, whose secret keys this one does not know."
        " So it cannot tell whether the order is accepted."
    )
    cause = "a claim under an unknown key: ORDER_ID_KEY is not the same everywhere, or REDIS_NAMESPACE is another's too"
    return _of_order(detail, cause)


def change_unanswered(path: str, *, is_new: bool) -> Problem:
    """`path`: where the product is, or would be."""
    look = "if it is there, it was created" if is_new else "if it has the values that you sent, the change was made"
    detail = (
        f"The database did not say whether it has made the change. GET {path} before sending it again: {look}."
        " Orders move qty and the ETag as well."
    )
    return Problem(kinds.OUTCOME_UNKNOWN, detail, retry_after_s=1)


def _of_order(detail: str, cause: str) -> Problem:
    return Problem(kinds.OUTCOME_UNKNOWN, detail + _AGAIN, retry_after_s=1, cause=cause)
