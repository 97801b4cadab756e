"""An example of each kind of problem, as a client gets it, for the documents."""

from typing import Any

import msgspec

from web.access.clients import ORDERS_WRITE
from web.problems import kinds, problems, unknown_outcomes
from web.problems.kinds import Kind
from web.problems.problems import FieldError, Problem

_PRODUCT = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"

_OCCURRENCES = (
    problems.malformed("The body is not valid JSON: Input data was truncated"),
    problems.invalid_query(
        [FieldError("This operation does not take the query parameter 'status'. It takes wait.", parameter="status")]
    ),
    problems.unauthenticated("Send the API key: Authorization: Bearer hr_…"),
    problems.forbidden(ORDERS_WRITE),
    problems.not_found(f"product {_PRODUCT}"),
    Problem(kinds.METHOD_NOT_ALLOWED, "DELETE does not work here. The Allow header says what does."),
    problems.too_slow("body", 10),
    problems.out_of_stock(_PRODUCT),
    problems.request_in_flight(),
    problems.cursor_unknown(),
    problems.version_mismatch(7),
    problems.weak_etag(),
    problems.too_large(64 * 1024),
    problems.not_json("text/plain", ["application/json"]),
    problems.invalid_values(
        [
            FieldError("quantity must be from 1 to 1000000, not 0.", pointer="#/quantity"),
            FieldError("productId must be a UUID.", pointer="#/productId"),
        ]
    ),
    problems.unknown_product(_PRODUCT),
    problems.key_reused(),
    problems.misdirected("shop.example"),
    problems.precondition_required(),
    problems.too_many_requests("The API key allows 100 orders per second. Send them more slowly.", 1, {}),
    problems.head_too_large(64 * 1024),
    problems.broker_unavailable(),
    problems.overloaded(4),
    unknown_outcomes.broker_is_silent(),
    problems.store_unavailable(),
    Problem(kinds.INTERNAL_ERROR, "This is a fault of the service; it is in its log."),
)


# More examples for kinds that have several causes, by the cause.
_OTHERS: dict[Kind, dict[str, Problem]] = {
    kinds.OUTCOME_UNKNOWN: {
        "the database is behind": unknown_outcomes.store_is_behind(),
        "the database does not answer": unknown_outcomes.store_is_silent(""),
        "refused, after Redis has forgotten": unknown_outcomes.refused_after_a_loss(),
        "keys are being replaced, and Redis has forgotten": unknown_outcomes.forgotten_while_keys_are_replaced(),
        "keys are being replaced": unknown_outcomes.stored_under_another_key(),
        "Redis holds what cannot be read": unknown_outcomes.claim_is_unreadable(),
        "processes have different keys": unknown_outcomes.claimed_under_another_key(),
        "a change of a product": unknown_outcomes.change_unanswered(f"/products/{_PRODUCT}", is_new=False),
    },
    kinds.UNKNOWN_PRODUCT: {"lines": problems.unknown_lines({1: _PRODUCT})},
    kinds.OUT_OF_STOCK: {"lines": problems.sold_out_lines({1: _PRODUCT})},
}


def example_of(kind: Kind) -> Any:
    """The body of one occurrence, as JSON values. Raises KeyError for a kind without an example."""
    return _BODIES[kind]


def other_examples_of(kind: Kind) -> dict[str, Any]:
    """The bodies of occurrences with other causes, by the cause."""
    return {cause: _body_of(it) for cause, it in _OTHERS.get(kind, {}).items()}


def _body_of(problem: Problem) -> Any:
    return msgspec.json.decode(problem.body())


_BODIES: dict[Kind, Any] = {it.kind: _body_of(it) for it in _OCCURRENCES}
