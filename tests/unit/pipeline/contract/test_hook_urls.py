"""A hook's URL, as `./headrace hooks` and event_relay read it. tests/unit/event_relay/test_destinations.py has more."""

import ipaddress

import pytest

from pipeline.contract.hook_urls import HookUrl, InvalidUrl, parse_hook_url


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("https://Shop.example/events", HookUrl("https", "shop.example", 443, None)),
        ("http://localhost", HookUrl("http", "localhost", 80, None)),
        ("http://127.0.0.1:9000/?a=@", HookUrl("http", "127.0.0.1", 9000, ipaddress.ip_address("127.0.0.1"))),
        ("https://[2001:DB8::1]:8443/", HookUrl("https", "2001:db8::1", 8443, ipaddress.ip_address("2001:db8::1"))),
    ],
)
def test_a_url_is_read_into_what_both_need(url: str, read: HookUrl) -> None:
    assert parse_hook_url(url) == read


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@x.example/",
        "https://x.example:hunter2/",
        "https://hunter2..example/",
        "hunter2://x.example/",
        "https://x.example/#hunter2",
        "https://[hunter2]/",
    ],
)
def test_a_refusal_quotes_nothing_of_the_url(url: str) -> None:
    with pytest.raises(InvalidUrl) as refused:
        parse_hook_url(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
