"""Which Host a service without keys answers to."""

import pytest

from product_api.settings import ProductSettings
from tests.support.services.settings import settings_from
from web.access.hosts import Hosts
from web.requests.head import parse_head
from web.serving.strict_http import Refused, check_head

LOOPBACK = [
    "localhost", "localhost:8080", "LocalHost:80", "localhost.", "127.0.0.1", "127.0.0.1:8080", "127.8.9.10", "[::1]",
    "[::1]:3000", "[::ffff:127.0.0.1]:80", " localhost ", "localhost:",
]  # fmt: skip
OTHERS = [
    "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0:8080", "10.0.0.5",
    "[::]", "[fe80::1]:80", "192.168.1.5:8080", "", "2130706433", "0x7f.0.0.1", "127.1", "x",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_host_of_the_loopback_is_answered(host: str) -> None:
    hosts = Hosts()
    assert [hosts.refusal(host.encode()) for _ in range(2)] == [None, None]


@pytest.mark.parametrize("host", OTHERS)
def test_any_other_host_is_refused_however_often_it_comes(host: str) -> None:
    hosts = Hosts()
    for _ in range(2):
        problem = hosts.refusal(host.encode())
        assert problem is not None
        assert (problem.status, problem.name) == (421, "misdirected")
        assert "ALLOWED_HOSTS" in problem.detail


def test_a_host_that_is_named_is_answered_with_any_port_and_no_name_below_it() -> None:
    hosts = Hosts(["shop.example", "10.0.0.5"])
    for host in (b"shop.example", b"SHOP.example:8080", b"shop.example.", b"10.0.0.5:80"):
        assert hosts.refusal(host) is None
    for host in (b"evil.shop.example", b"shop.example.evil", b"10.0.0.50"):
        assert hosts.refusal(host) is not None


def test_it_matters_only_while_there_are_no_keys() -> None:
    is_open = True
    hosts = Hosts(is_checked=lambda: is_open)
    assert hosts.refusal(b"evil.example") is not None
    is_open = False
    assert hosts.refusal(b"evil.example") is None
    is_open = True
    assert hosts.refusal(b"evil.example") is not None


def test_however_many_are_good_few_are_remembered() -> None:
    hosts = Hosts()
    for port in range(1, 2_000):
        assert hosts.refusal(b"localhost:%d" % port) is None
    assert len(hosts._known) <= 64


def test_a_request_without_a_host_comes_from_no_browser() -> None:
    check_head("1.0", parse_head([]), Hosts())
    with pytest.raises(Refused):
        check_head("1.0", parse_head([(b"host", b"evil.example")]), Hosts())


@pytest.mark.parametrize(
    ("names", "known"),
    [("", []), ("proxy", ["proxy"]), ("a.example,b_c,10.0.0.5", ["a.example", "b_c", "10.0.0.5"]), ("[::2]", ["::2"])],
)
def test_names_come_with_commas(names: str, known: list[str]) -> None:
    assert _settings(names).allowed_host_names == known


@pytest.mark.parametrize("names", ["a b", "http://a", "a/b", "*"])
def test_what_is_no_name_is_no_setting(names: str) -> None:
    with pytest.raises(ValueError, match="ALLOWED_HOSTS"):
        _settings(names)


def _settings(names: str) -> ProductSettings:
    servers = {"DATABASE_URL": "postgresql://x/x", "AMQP_URL": "amqp://x", "REDIS_URL": "redis://x"}
    return settings_from(ProductSettings, {**servers, "ORDER_ID_KEY": "6b" * 32, "ALLOWED_HOSTS": names})
