"""The refusals that schemathesis calls failures although they are right. There are no other exclusions.

None excludes a case, a check or an operation. Each covers one error in one answer, and only for certain input; anything
else wrong with the answer still fails. An excuse that no run needs any more fails the tests.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from web.documents.json_schema import schemas_of
from web.requests.http_fields import IF_MATCH
from web.requests.readable_text import breaks_text, has_visible


class Sent(NamedTuple):
    """The parts of a request that an excuse may look at."""

    operation_id: str
    headers: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any


class Refusal(NamedTuple):
    """One error in an answer: why the service did not take what was sent."""

    failure: str
    """The name of schemathesis's failure class."""
    kind: str
    """The last part of the problem's type."""
    at: str
    """The member or the parameter that it points at; "" for none."""
    value: Any
    """The value that was sent there."""
    sent: Sent


@dataclass(frozen=True, slots=True)
class Excuse:
    failure: str
    kind: str
    at: str
    holds: Callable[[Refusal], bool]
    reason: str


# ── what was sent


def _is_no_cents(refusal: Refusal) -> bool:
    return isinstance(refusal.value, float) and Decimal(str(refusal.value)) % Decimal("0.01") != 0


def _is_whole_float(refusal: Refusal) -> bool:
    return isinstance(refusal.value, float) and refusal.value.is_integer()


def _would_overflow(refusal: Refusal) -> bool:
    return refusal.sent.operation_id == "restockProduct" and type(refusal.value) is int


def _sets_qty_unseen(refusal: Refusal) -> bool:
    it = refusal.sent
    return it.operation_id == "patchProduct" and "qty" in it.body and "If-Match" not in it.headers


def _has_if_match(refusal: Refusal) -> bool:
    return "If-Match" in refusal.sent.headers


def _names_versions(refusal: Refusal) -> bool:
    return _has_if_match(refusal) or "If-None-Match" in refusal.sent.headers


def _has_weak_tag(refusal: Refusal) -> bool:
    return "W/" in refusal.sent.headers.get("If-Match", "")


def _is_unreadable(refusal: Refusal) -> bool:
    return isinstance(refusal.value, str) and (not has_visible(refusal.value) or breaks_text(refusal.value.strip()))


def _has_key(refusal: Refusal) -> bool:
    return "Idempotency-Key" in refusal.sent.headers


_IF_MATCH = re.compile(schemas_of([IF_MATCH.type])[0][0]["pattern"])


def _has_malformed_if_match(refusal: Refusal) -> bool:
    return not _IF_MATCH.search(refusal.sent.headers.get("If-Match", "*"))


def excuses_for(known_products: Sequence[str]) -> tuple[Excuse, ...]:
    """`known_products`: ids that can be ordered."""

    def is_unknown(refusal: Refusal) -> bool:
        return str(refusal.value).lower() not in known_products

    rejected = "RejectedPositiveData"
    return (
        Excuse(
            rejected,
            "unknown-product",
            "productId",
            is_unknown,
            "A schema cannot say which products there are, and schemathesis makes up ids. (It takes 404 for an answer"
            " to such data, but here the path is right, and the value in the body is not.)",
        ),
        Excuse(
            rejected,
            "key-reused",
            "",
            _has_key,
            "schemathesis sends a key again with another order, which is what the answer is for.",
        ),
        Excuse(
            rejected,
            "version-mismatch",
            "",
            _names_versions,
            "A schema cannot say which version a product has. schemathesis takes no 412 for an answer to valid data.",
        ),
        Excuse(
            rejected,
            "weak-etag",
            "",
            _has_weak_tag,
            "A weak ETag is an ETag, so the schema allows it, and a list may have one beside a strong one. Which"
            " of them matches is for the product's version to say.",
        ),
        Excuse(
            rejected,
            "invalid-value",
            "name",
            _is_unreadable,
            "A name has something that can be seen, and no direction that is left open. JSON Schema's patterns know no"
            " Unicode categories in every validator, and cannot count.",
        ),
        Excuse(
            rejected,
            "precondition-required",
            "",
            _sets_qty_unseen,
            "If-Match is optional for a PATCH, unless the body sets qty: OpenAPI cannot make one depend on the other.",
        ),
        Excuse(
            "MissingHeaderNotRejected",
            "precondition-required",
            "",
            lambda refusal: not _has_if_match(refusal),
            "RFC 6585 has 428 for just this, a missing If-Match. schemathesis only knows 400 and 422.",
        ),
        Excuse(
            rejected,
            "malformed",
            "",
            _has_malformed_if_match,
            "If-Match: 0 is none, says our schema too. schemathesis leaves it in the headers of cases whose bodies it"
            " then varies, and calls them valid.",
        ),
        Excuse(
            rejected,
            "invalid-value",
            "before",
            lambda refusal: isinstance(refusal.value, str),
            "A cursor is a text that only the service can write; to a schema it is any text.",
        ),
        Excuse(
            rejected,
            "invalid-value",
            "price",
            _is_no_cents,
            "A price has two decimal places at most. A schema could only say so by multipleOf, and to validators that"
            " count in binary 19.99 is no multiple of 0.01.",
        ),
        *(
            Excuse(
                rejected,
                "invalid-value",
                count,
                _is_whole_float,
                "To JSON Schema 23.0 is an integer. We want a count written as one, which every reader understands"
                " alike; the description says so.",
            )
            for count in ("quantity", "qty")
        ),
        Excuse(
            rejected,
            "invalid-value",
            "quantity",
            _would_overflow,
            "A restock past the limit of qty: how much there is already is not for a schema to say.",
        ),
    )


# ── what was answered


def refusals(failure: str, sent: Sent, answer: Any) -> Iterator[Refusal]:
    """All errors in an answer, which is a problem or the array of them that a bulk request gets."""
    for problem in answer if isinstance(answer, list) else [answer]:
        kind = str(problem.get("type", "")).rpartition("/")[2]
        for error in problem.get("errors") or [{}]:
            yield Refusal(failure, kind, *_located(error, sent), sent)


def _located(error: Mapping[str, str], sent: Sent) -> tuple[str, Any]:
    if "parameter" in error:
        return error["parameter"], sent.query.get(error["parameter"])
    *path, name = error.get("pointer", "#").split("/")[1:] or [""]
    try:
        value = sent.body
        for step in path:
            value = value[int(step)]
        return name, value[name]
    except (LookupError, TypeError, ValueError):
        return name, None
