"""What may be asked of GET /api/v1/events, and who gets which event."""

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.datastructures import URL, QueryParams

from database.event_ring import FollowedEvent
from ingest_api.events.query import NOW, After, EventQuery, Position, Selection, next_link, parse_after
from ingest_api.events.stream import messages, place
from pipeline.contract.order_events import encode_cursor
from tests.support.data.problems import pointer_of
from web.access.clients import OPS, ORDERS_READ, Client
from web.problems.problems import Problem

PRODUCT = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"
CURSOR = encode_cursor(7, 42)
MORNING = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def event(offset: int, client: str | None, product_id: str = PRODUCT, kind: str = "order.failed") -> FollowedEvent:
    return FollowedEvent(offset, client, product_id, kind, "o", b'{"a":1}')


EVENTS = [event(1, "shop"), event(2, "rival", ""), event(3, None), event(4, "shop", kind="order.processed")]


def offsets(selection: Selection) -> list[int]:
    return [it.offset for it in selection.of(EVENTS)]


def selected(query: str, client: Client) -> list[int]:
    return offsets(EventQuery.of(QueryParams(query)).selection(client))


def test_a_client_gets_its_own_and_one_that_sees_all_gets_all() -> None:
    shop, admin, anyone = (
        Client("shop", frozenset({ORDERS_READ})),
        Client("a", frozenset({OPS})),
        Client("", frozenset()),
    )
    assert selected("", shop) == [1, 4]
    assert selected("", admin) == selected("", anyone) == [1, 2, 3, 4]
    assert selected("types=order.processed", shop) == [4]
    assert selected(f"product={PRODUCT.upper()}&types=order.failed,order.parked", admin) == [1, 3]
    # A client that is named like nobody gets nobody's events no more than others do.
    assert selected("", Client("None", frozenset({ORDERS_READ}))) == []


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (None, None),
        ("now", NOW),
        (CURSOR, Position(7, 42)),
        ("2026-01-05T09:30:00Z", MORNING),
        ("2026-01-05t09:30:00z", MORNING),
        ("2026-01-05T10:30:00.000+01:00", MORNING),
        ("2026-01-05T09:30:00.123456789Z", MORNING.replace(microsecond=123456)),
    ],
)
def test_a_place_is_a_cursor_a_time_or_now(text: str | None, after: After) -> None:
    assert parse_after(text) == after


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Now",
        "x",
        "é",
        CURSOR[:-1],
        f"{CURSOR} ",
        f"{CURSOR}\n",
        "_" * 16,
        "2026-01-05",
        "2026-01-05T09:30:00",
        "2026-01-05T24:30:00Z",
        "2026-13-05T09:30:00Z",
        "0000-01-05T09:30:00Z",
        "2026-W02-1T09:30:00Z",
        "0001-01-01T00:00:00+14:00",
        "\uff12026-01-05T09:30:00Z",
        "1767605400",
    ],
)
def test_any_other_place_is_422(text: str) -> None:
    with pytest.raises(Problem) as raised:
        parse_after(text)
    assert (raised.value.status, pointer_of(raised.value)) == (422, "?after")


def test_next_is_the_same_question_from_there_on() -> None:
    query = {"types": "order.failed,order.parked", "after": "now", "wait": "1e+1", "limit": "5"}
    link = next_link(URL("http://shop.example/prefix/api/v1/events?after=now"), query, CURSOR)
    target, relation = link.split("; ")
    parts = urlsplit(target.strip("<>"))
    assert (parts.netloc, parts.path, relation) == ("", "/prefix/api/v1/events", 'rel="next"')
    assert parse_qs(parts.query) == {name: [value] for name, value in {**query, "after": CURSOR}.items()}


def test_a_message_is_as_the_specification_of_event_streams_says() -> None:
    assert messages(7, [event(42, None)]) == b'id: %b\nevent: order.failed\ndata: {"a":1}\n\n' % CURSOR.encode()
    assert place(Position(7, 42)) == b"id: %b\n\n" % CURSOR.encode()
