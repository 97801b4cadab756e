"""What `./headrace hooks` takes, and how it refuses the rest."""

import base64
import re
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from pipeline.contract.order_events import encode_cursor
from stack.errors import HeadraceError
from stack.operate.hooks.rules import (
    EXAMPLE,
    REPLAY,
    Place,
    check_id,
    check_place,
    check_reason,
    check_url,
    chosen_types,
    moment_of,
    new_secret,
    place_of,
)


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/events",
        "http://127.0.0.1:9000/",
        "https://[2001:db8::1]:8443/a?b=%20c&d=@",
        "https://xn--bcher-kva.example",
    ],
)
def test_a_hook_is_an_http_url(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("", "letters, digits"),
        ("shop.example/events", "neither https:// nor http://"),
        ("ftp://shop.example", "neither https:// nor http://"),
        ("https://", "no host"),
        ("https:///events", "no host"),
        ("https://shop.example:0/", "port 0"),
        ("https://shop.example:99999/", "(?i)port"),
        ("https://user:secret@shop.example/", "a user or a password"),
        ("https://@shop.example/", "a user or a password"),
        ("https://shop.example/#top", "fragment"),
        ("https://shop.example/#", "fragment"),
        ("https://shop.example\\@evil.example/", "letters, digits"),
        ("https://shop.example/a b", "letters, digits"),
        ("https://shop.example/\r\nX-Admin: 1", "letters, digits"),
        ("https://bücher.example/", "letters, digits"),
        ("https://[::1/", "(?i)ipv6"),
        ("https://127.1/", "four decimal numbers"),
        ("https://shop.example:22/", "port 22 is not for http"),
        ("HTTPS://shop.example/", "neither https:// nor http://"),
        (f"https://shop.example/{'x' * 2048}", "at most 2,048 characters"),
    ],
)
def test_a_url_that_cannot_be_sent_to_is_an_error_that_says_why(url: str, cause: str) -> None:
    with pytest.raises(HeadraceError, match="is not a URL to send to") as raised:
        check_url(url)
    assert re.search(cause, raised.value.cause)
    assert raised.value.fix == EXAMPLE


def test_types_are_the_events_types_each_once_in_their_usual_order() -> None:
    assert chosen_types(None) is None
    assert chosen_types("order.failed, order.processed,order.failed") == ["order.processed", "order.failed"]
    for wrong in ("", "order.shipped", "order.failed,"):
        with pytest.raises(HeadraceError, match="there is no event of type") as raised:
            chosen_types(wrong)
        assert "order.processed, order.failed, order.cancelled, order.parked" in raised.value.cause


def test_an_id_may_be_shortened_to_four_characters() -> None:
    assert check_id("0199") == "0199"
    assert check_id(" 0199A1B2-c3d4 ") == "0199a1b2-c3d4"
    for wrong in ("", "019", "%%%%", "shop", "0" * 37):
        with pytest.raises(HeadraceError, match="is not the id of a hook"):
            check_id(wrong)


def test_the_reason_of_a_pause_is_one_line() -> None:
    assert check_reason(" they migrate today ") == "they migrate today"
    for wrong in ("", "  ", "a\nb", "\x1b[2J", "x" * 501):
        with pytest.raises(HeadraceError, match="--reason is unusable"):
            check_reason(wrong)


def test_a_place_is_a_cursor_or_a_time_or_the_end() -> None:
    assert place_of(None, None, REPLAY) is None
    assert place_of("now", None, REPLAY) == Place()
    assert place_of(encode_cursor(7, 42), None, REPLAY) == Place(7, 42)
    assert place_of(None, "2026-01-31T09:00", REPLAY) == Place(since=datetime(2026, 1, 31, 9, tzinfo=UTC))
    for after, since, what in (
        ("x", None, "'x' is not a cursor"),
        (None, "yesterday", "is not a time"),
        ("now", "2h", "both --after and --since"),
    ):
        with pytest.raises(HeadraceError, match=what) as raised:
            place_of(after, since, REPLAY)
        assert REPLAY in raised.value.fix


def test_an_age_counts_from_the_databases_clock() -> None:
    """This machine's may go wrong by hours."""
    now = datetime(2026, 1, 31, 9, tzinfo=UTC)
    place = place_of(None, "2h", REPLAY)
    assert place is not None
    assert place.since is not None
    assert moment_of(place.since, now) == datetime(2026, 1, 31, 7, tzinfo=UTC)
    assert moment_of(now, now) == now


def test_a_time_in_the_future_is_refused() -> None:
    now = datetime(2026, 1, 31, 9, tzinfo=UTC)
    with pytest.raises(HeadraceError, match=r"--since 2026-01-31T10:00:00\+00:00 is in the future") as raised:
        moment_of(datetime(2026, 1, 31, 10, tzinfo=UTC), now)
    assert "by the database's clock it is 2026-01-31T09:00:00Z" in raised.value.cause


def test_a_cursor_of_another_log_or_beyond_the_end_is_refused() -> None:
    check_place(Place(7, 42), 7, 42)
    check_place(Place(), 7, 0)
    with pytest.raises(HeadraceError, match="of another log"):
        check_place(Place(8, 0), 7, 42)
    with pytest.raises(HeadraceError, match="beyond the end of the log"):
        check_place(Place(7, 43), 7, 42)


def test_a_secret_is_what_standard_webhooks_signs_with() -> None:
    secret = new_secret()
    assert secret != new_secret()
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    webhook = Webhook(secret)
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook.sign("1", now, "{}"),
    }
    assert webhook.verify("{}", headers) == {}
