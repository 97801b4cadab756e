"""What GET /api/v1/orders asks for: a page of orders, newest first; or certain orders, by their ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.datastructures import QueryParams

from ingest_api.reads.order_walks import Stretch, Wanted
from pipeline.contract.fields import MAX_REFERENCE_CHARACTERS
from pipeline.contract.order_view import STATUSES
from web.problems import problems
from web.problems.problems import FieldError
from web.requests.ids import canonical_id
from web.requests.moments import LIKE, moment_in
from web.requests.paging import Page, or_error
from web.requests.waits import parse_wait

MAX_IDS = 100

# How much of a value that is no id an answer repeats.
_MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class ById:
    """Certain orders."""

    order_ids: Sequence[str]
    """In the order asked; one may come twice."""
    wait_s: float


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a list."""

    wanted: Wanted
    """Without an owner: that depends on the client."""
    stretch: Stretch
    page: Page


def parse_order_query(query: QueryParams) -> ById | Listing:
    """Raises Problem (422) with all faults."""
    errors: list[FieldError] = []
    asked = _by_id(query, errors) if "id" in query else _listing(query, errors)
    if errors:
        raise problems.invalid_values(errors)
    return asked


def _by_id(query: QueryParams, errors: list[FieldError]) -> ById:
    texts = query.getlist("id")
    if len(texts) > MAX_IDS:
        errors.append(FieldError(f"id comes {len(texts)} times, and may come {MAX_IDS} times.", parameter="id"))
    ids = [_id_of(text, errors) for text in texts[:MAX_IDS]]
    for name in query:
        if name not in ("id", "wait"):
            detail = f"A request with id names its orders, so it takes wait alone beside it: leave {name} out."
            errors.append(FieldError(detail, parameter=name))
    return ById(ids, or_error(parse_wait, query.get("wait"), 0.0, errors))


def _id_of(text: str, errors: list[FieldError]) -> str:
    if (found := canonical_id(text)) is None:
        shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
        errors.append(FieldError(f"{shown!r} is not the id of an order, a UUID.", parameter="id"))
    return found or ""


def _listing(query: QueryParams, errors: list[FieldError]) -> Listing:
    wanted = Wanted(
        product=or_error(_parse_product, query.get("product"), None, errors),
        reference=or_error(_parse_reference, query.get("reference"), None, errors),
        status=or_error(_parse_status, query.get("status"), None, errors),
    )
    since, until = _parse_moment(query, "since", errors), _parse_moment(query, "until", errors)
    if since and until and since > until:
        errors.append(FieldError("since must not be later than until.", parameter="since"))
    page = Page.read(query, errors)
    if "wait" in query:
        errors.append(FieldError("wait goes with id: a list does not wait.", parameter="wait"))
    return Listing(wanted, Stretch.of(page, since, until), page)


def _parse_product(text: str | None) -> str | None:
    if text is None:
        return None
    if (found := canonical_id(text)) is None:
        raise problems.invalid_parameter("product", "product must be the id of a product, a UUID.")
    return found


def _parse_reference(text: str | None) -> str | None:
    if text is not None and (not 1 <= len(text) <= MAX_REFERENCE_CHARACTERS or "\0" in text):
        detail = f"reference must have 1 to {MAX_REFERENCE_CHARACTERS} characters, none of them U+0000."
        raise problems.invalid_parameter("reference", detail)
    return text


def _parse_status(text: str | None) -> str | None:
    if text is not None and text not in STATUSES:
        raise problems.invalid_parameter("status", f"status must be one of {', '.join(STATUSES)}.")
    return text


def _parse_moment(query: Mapping[str, str], name: str, errors: list[FieldError]) -> datetime | None:
    text = query.get(name)
    moment = None if text is None else moment_in(text)
    if text is not None and moment is None:
        errors.append(FieldError(f"{name} must be {LIKE}.", parameter=name))
    return moment
