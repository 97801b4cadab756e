"""What may be asked of GET /api/v1/orders, and what is wrong with the rest, all at once."""

from datetime import UTC, datetime

import pytest
from starlette.datastructures import QueryParams

from ingest_api.reads.order_query import ById, Listing, parse_order_query
from ingest_api.reads.order_walks import Stretch, Wanted
from web.problems.problems import Problem
from web.requests.paging import Cursor, Page

A, B = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42", "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b43"
MORNING, EVENING = datetime(2026, 1, 5, 9, 30, tzinfo=UTC), datetime(2026, 1, 5, 18, tzinfo=UTC)
FIRST_ID = "00000000-0000-0000-0000-000000000000"
TOP = Page.read({}, []).before


def listing(query: str) -> Listing:
    asked = parse_order_query(QueryParams(query))
    assert isinstance(asked, Listing)
    return asked


def faults(query: str) -> list[str]:
    with pytest.raises(Problem) as raised:
        parse_order_query(QueryParams(query))
    assert (raised.value.status, raised.value.name) == (422, "invalid-value")
    return [it.parameter or "" for it in raised.value.errors]


def test_without_parameters_it_is_the_newest_of_all() -> None:
    assert listing("") == Listing(Wanted(), Stretch(TOP), Page(TOP, 50))


def test_filters_are_taken_together() -> None:
    asked = listing(f"reference=A%201&product={A.upper()}&status=FAILED&limit=7")
    assert asked.wanted == Wanted(None, A, "A 1", "FAILED")
    assert asked.page.limit == 7


def test_since_is_the_first_moment_and_until_is_the_first_one_too_late() -> None:
    asked = listing("since=2026-01-05T09:30:00Z&until=2026-01-05T19:00:00%2B01:00")
    assert asked.stretch == Stretch(Cursor(EVENING, FIRST_ID), MORNING)


@pytest.mark.parametrize("at", [MORNING, EVENING])
def test_of_a_cursor_and_until_the_earlier_counts(at: datetime) -> None:
    cursor = Cursor(at, A)
    asked = listing(f"until=2026-01-05T18:00:00Z&before={cursor.encode()}")
    assert asked.stretch.before == (cursor if at == MORNING else Cursor(EVENING, FIRST_ID))


def test_since_may_be_until_and_lets_nothing_through() -> None:
    assert listing("since=2026-01-05T18:00:00Z&until=2026-01-05T18:00:00Z").stretch.since == EVENING


def test_ids_come_in_the_order_asked_in_lower_case() -> None:
    assert parse_order_query(QueryParams(f"id={B.upper()}&id={A}&id={B}&wait=1.5")) == ById([B, A, B], 1.5)


def test_a_hundred_ids_are_taken_and_no_more() -> None:
    ids = [f"id={A}"] * 100
    assert isinstance(parse_order_query(QueryParams("&".join(ids))), ById)
    assert faults("&".join([*ids, f"id={A}"])) == ["id"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=failed", ["status"]),
        ("status=", ["status"]),
        ("product=laptop", ["product"]),
        ("reference=", ["reference"]),
        ("reference=" + "x" * 65, ["reference"]),
        ("reference=a%00b", ["reference"]),
        ("since=yesterday", ["since"]),
        ("since=2026-01-05", ["since"]),
        ("until=2026-01-05T09:30:00", ["until"]),
        ("since=0001-01-01T00:00:00%2B14:00", ["since"]),
        ("since=2026-01-05T18:00:00Z&until=2026-01-05T09:30:00Z", ["since"]),
        ("wait=1", ["wait"]),
        ("limit=0&before=x&status=x&product=x&since=x&until=x&wait=x",
         ["product", "status", "since", "until", "before", "limit", "wait"]),
        ("id=", ["id"]),
        (f"id={A}&id=x&id=y", ["id", "id"]),
        (f"id={A}&wait=31", ["wait"]),
        ("id=x&wait=31&status=FAILED&limit=5&before=", ["id", "status", "limit", "before", "wait"]),
    ],
)  # fmt: skip
def test_all_faults_are_named_at_once(query: str, named: list[str]) -> None:
    assert faults(query) == named


def test_a_fault_repeats_no_endless_id() -> None:
    with pytest.raises(Problem) as raised:
        parse_order_query(QueryParams(f"id={'x' * 5_000}"))
    assert len(raised.value.body()) < 500
