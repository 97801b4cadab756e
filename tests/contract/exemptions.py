"""The exemptions: refusals that schemathesis reports as failures although they are right.

An exemption excludes no case, check or operation. It covers one error in one answer, and only for certain input.
Anything else wrong with the answer still fails. An exemption that no run needs any more fails the tests.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from pipeline.contract.fields import MAX_METADATA_BYTES
from web.documents.json_schema import schemas_of
from web.requests.http_fields import IF_MATCH
from web.requests.readable_text import breaks_text, has_visible


class Sent(NamedTuple):
    """The parts of a request that an exemption depends on."""

    operation_id: str
    headers: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any


class Refusal(NamedTuple):
    """One error in an answer: why the service refused the request."""

    failure: str
    """The name of schemathesis's failure class."""
    kind: str
    """The last part of the problem's type."""
    at: str
    """The body member or query parameter that the error points at; "" for none."""
    value: Any
    """The value that was sent there."""
    sent: Sent


@dataclass(frozen=True, slots=True)
class Exemption:
    failure: str
    kind: str
    at: str
    holds: Callable[[Refusal], bool]
    reason: str


# ── the request


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


def _is_too_long_together(refusal: Refusal) -> bool:
    pairs = refusal.value
    if not isinstance(pairs, dict) or not all(isinstance(it, str) for it in pairs.values()):
        return False
    return len("".join([*pairs, *pairs.values()]).encode("utf-8", "surrogatepass")) > MAX_METADATA_BYTES


def _has_key(refusal: Refusal) -> bool:
    return "Idempotency-Key" in refusal.sent.headers


def _has_ids(refusal: Refusal) -> bool:
    return refusal.sent.operation_id == "listOrders" and "id" in refusal.sent.query


_IF_MATCH = re.compile(schemas_of([IF_MATCH.type])[0][0]["pattern"])


def _has_malformed_if_match(refusal: Refusal) -> bool:
    return not _IF_MATCH.search(refusal.sent.headers.get("If-Match", "*"))


def _has_last_event_id(refusal: Refusal) -> bool:
    return "Last-Event-ID" in refusal.sent.headers


def exemptions_for(known_products: Sequence[str]) -> tuple[Exemption, ...]:
    """`known_products`: ids that can be ordered."""

    def is_unknown(refusal: Refusal) -> bool:
        return str(refusal.value).lower() not in known_products

    rejected = "RejectedPositiveData"
    return (
        Exemption(
            rejected,
            "unknown-product",
            "productId",
            is_unknown,
            "A schema cannot list the existing products, and schemathesis makes up ids. (It accepts 404 as an answer"
            " to such data, but here the path exists, and the value in the body does not.)",
        ),
        Exemption(
            rejected,
            "key-reused",
            "",
            _has_key,
            "schemathesis sends a key again with another order, which is what this answer is for.",
        ),
        Exemption(
            rejected,
            "version-mismatch",
            "",
            _names_versions,
            "A schema cannot say which version a product has. schemathesis does not accept 412 for valid data.",
        ),
        Exemption(
            rejected,
            "weak-etag",
            "",
            _has_weak_tag,
            "The schema allows a weak ETag, because a list may have one beside a strong one. Only the product's version"
            " decides which of them matches.",
        ),
        Exemption(
            rejected,
            "invalid-value",
            "name",
            _is_unreadable,
            "A name must have a visible character and close every text direction that it opens. JSON Schema cannot say"
            " so: not every validator knows Unicode categories in patterns, and patterns cannot count.",
        ),
        Exemption(
            rejected,
            "precondition-required",
            "",
            _sets_qty_unseen,
            "A PATCH needs If-Match only if its body sets qty. OpenAPI cannot make one depend on the other.",
        ),
        Exemption(
            "MissingHeaderNotRejected",
            "precondition-required",
            "",
            lambda refusal: not _has_if_match(refusal),
            "RFC 6585 defines 428 for a missing If-Match. schemathesis only accepts 400 and 422.",
        ),
        Exemption(
            rejected,
            "malformed",
            "",
            _has_malformed_if_match,
            "`If-Match: 0` is not an ETag, by our schema too. schemathesis keeps it in cases whose bodies it varies,"
            " and calls them valid.",
        ),
        Exemption(
            rejected,
            "malformed",
            "",
            _has_last_event_id,
            "Last-Event-ID is for a stream alone, and only the service can write its cursor. OpenAPI cannot make one"
            " header depend on another, and to a schema it is any text.",
        ),
        Exemption(
            rejected,
            "invalid-value",
            "before",
            lambda refusal: isinstance(refusal.value, str),
            "Only the service can write a cursor. To a schema it is any text.",
        ),
        *(
            Exemption(
                rejected,
                "invalid-value",
                name,
                _has_ids,
                "A list of orders takes filters, or ids. OpenAPI cannot make one parameter exclude another.",
            )
            for name in ("reference", "product", "status", "since", "until", "limit", "before")
        ),
        Exemption(
            rejected,
            "invalid-value",
            "wait",
            lambda refusal: refusal.sent.operation_id == "listOrders" and not _has_ids(refusal),
            "A list of orders waits only for those that were named by their ids. OpenAPI cannot make one parameter"
            " depend on another.",
        ),
        Exemption(
            rejected,
            "invalid-value",
            "after",
            lambda refusal: isinstance(refusal.value, str),
            "Only the service can write the cursor of an event. To a schema it is any text, as is a time, or now.",
        ),
        Exemption(
            rejected,
            "cursor-unknown",
            "after",
            lambda refusal: isinstance(refusal.value, str),
            "A cursor of another log looks like one of this log. schemathesis does not accept 410 for valid data.",
        ),
        Exemption(
            rejected,
            "invalid-value",
            "price",
            _is_no_cents,
            "A price has at most two decimal places. A schema could only say so by multipleOf, and for validators that"
            " use binary floats, 19.99 is not a multiple of 0.01.",
        ),
        Exemption(
            rejected,
            "invalid-value",
            "metadata",
            _is_too_long_together,
            "Names and values of metadata together have at most 2,048 bytes. JSON Schema bounds each of them alone, in"
            " characters; the description says so.",
        ),
        *(
            Exemption(
                rejected,
                "invalid-value",
                count,
                _is_whole_float,
                "JSON Schema takes 23.0 for an integer. The service wants a count without a decimal point, which every"
                " reader understands alike; the description says so.",
            )
            for count in ("quantity", "qty")
        ),
        Exemption(
            rejected,
            "invalid-value",
            "quantity",
            _would_overflow,
            "A restock beyond the maximum of qty: a schema does not know the current stock.",
        ),
    )


# ── the answer


def refusals(failure: str, sent: Sent, answer: Any) -> Iterator[Refusal]:
    """All errors in an answer: a problem, or a bulk request's array of problems."""
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
            value = value[int(step) if isinstance(value, list) else step]
        return name, value[name]
    except (LookupError, TypeError, ValueError):
        return name, None
