"""Which index a list is read from."""

from datetime import UTC, datetime, timedelta

import pytest

from ingest_api.reads.order_walks import MOST_ROWS, Stretch, Wanted, ends_query, furthest, walks_for
from web.requests.paging import Page

PRODUCT = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PAGE = Page.read({"limit": "10"}, [])


def names(wanted: Wanted) -> list[str]:
    return [it.name for it in walks_for(wanted)]


@pytest.mark.parametrize(
    ("wanted", "serving"),
    [
        (Wanted(), ["orders_newest"]),
        (Wanted(status="PENDING"), ["orders_newest"]),
        (Wanted(status="FAILED"), ["failed_orders"]),
        (Wanted(status="CANCELLED"), ["cancellations_listed"]),
        (Wanted("shop"), ["orders_of_client"]),
        (Wanted("shop", status="FAILED"), ["orders_of_client", "failed_orders"]),
        (Wanted("shop", PRODUCT), ["orders_of_client", "orders_with_product"]),
        (Wanted(None, PRODUCT, "A-1", "PROCESSED"), ["orders_of_reference", "orders_with_product"]),
    ],
)
def test_every_index_that_a_filter_makes_useful_is_asked(wanted: Wanted, serving: list[str]) -> None:
    assert names(wanted) == serving


@pytest.mark.parametrize(
    ("wanted", "last"),
    [
        (Wanted(), 10),
        (Wanted("shop"), 10),
        (Wanted(product=PRODUCT), 10),
        (Wanted("shop", PRODUCT), MOST_ROWS - 1),
        (Wanted(status="FAILED"), MOST_ROWS - 1),
        (Wanted(status="PROCESSED"), MOST_ROWS - 1),
        (Wanted(status="CANCELLED"), 10),
        (Wanted("shop", status="CANCELLED"), MOST_ROWS - 1),
    ],
)
def test_a_page_examines_no_more_than_it_shows_where_the_index_answers_everything(wanted: Wanted, last: int) -> None:
    query = ends_query(walks_for(wanted), wanted, Stretch.of(PAGE), PAGE)
    assert query.sql.count(f"OFFSET {last} LIMIT 1") == len(walks_for(wanted))


def test_the_index_that_gets_furthest_back_is_read() -> None:
    walks = walks_for(Wanted("shop", PRODUCT))
    of_client, of_product = walks
    earlier = NOON - timedelta(hours=1)
    assert furthest(walks, {0: NOON, 1: earlier}) == (of_product, earlier)
    assert furthest(walks, {0: earlier, 1: NOON}) == (of_client, earlier)
    assert furthest(walks, {0: NOON, 1: NOON}) == (of_client, NOON)


def test_an_index_that_has_no_more_rows_ends_the_list() -> None:
    walks = walks_for(Wanted("shop", PRODUCT))
    assert furthest(walks, {0: NOON}) == (walks[1], None)
    assert furthest(walks, {}) == (walks[0], None)
