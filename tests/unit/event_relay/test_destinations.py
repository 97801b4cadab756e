"""Where webhooks may go: never to ourselves or our neighbours, however the URL or the name server puts it."""

import asyncio
import ipaddress
import socket
import threading
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from event_relay.destinations import (
    AddressRefused,
    CheckedResolver,
    Reach,
    Refused,
    destination_of,
    reach_of,
)

PUBLIC = ("8.8.8.8", "1.1.1.1", "100.63.255.255", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808")
PRIVATE = (
    *("127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.127.255.255"),
    *("::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
)
NOBODY = (
    *("0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("203.0.113.9", "192.88.99.1", "192.0.0.8", "::", "ff02::1", "2001:db8::1", "2002:7f00:1::", "2001::1"),
    *("::7f00:1", "64:ff9b:1::1", "100::1", "::ffff:0:0", "4000::1", "3fff::1"),
)


@pytest.mark.parametrize(
    ("address", "reach"),
    [(it, reach) for reach, those in zip(Reach, (PUBLIC, PRIVATE, NOBODY), strict=True) for it in those],
)
def test_who_is_at_an_address(address: str, reach: Reach) -> None:
    assert reach_of(ipaddress.ip_address(address)) is reach


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(address: Any) -> None:
    if reach_of(address) is Reach.PUBLIC:
        is_nat64 = address.version == 6 and address in ipaddress.ip_network("64:ff9b::/96")
        assert is_nat64 or (address.is_global and not address.is_multicast)


# ── URLs


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example",
        "https://shop.example/hooks?token=1&b=%20",
        "https://shop.example:8443/",
        "https://xn--bcher-kva.example/",
        "https://8.8.8.8/x",
        "https://[2606:4700::1111]:8443/x",
        "https://a_b.example./",
    ],
)
def test_public_https_urls_are_taken(url: str) -> None:
    assert destination_of(url, allow_private=False).url == url


@pytest.mark.parametrize("address", [*PRIVATE, *NOBODY])
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Refused):
        destination_of(f"https://{host}/", allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        # IPv4 as only some parsers read it
        *("https://2130706433/", "https://0x7f000001/", "https://017700000001/", "https://127.1/", "https://127.0.1/"),
        *("https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://127.0.0.01/", "https://8.8.8.8./", "https://1.2.3/"),
        *("https://1.2.3.4.5/", "https://256.1.1.1/", "https://a.1/", "https://a.0x1/"),
        # users, zones, brackets
        *("https://user@shop.example/", "https://user:secret@shop.example/", "https://@shop.example/"),
        *("https://shop.example@127.0.0.1/", "https://127.0.0.1\\@shop.example/", "https://[fe80::1%25eth0]/"),
        *("https://[fe80::1%eth0]/", "https://[::1/", "https://::1/", "https://[1.2.3.4]/", "https://[v1.a:b]/"),
        # hosts
        *("https:///path", "https://", "https://./", "https://a..b/", "https://-a.example/", "https://%6cocalhost/"),
        *("https://löcal.example/", "https://１２７.0.0.1/", "https://" + "a." * 130 + "example/", "https://a b/"),
        *("https://" + "a" * 64 + ".example/",),
        # characters
        *(
            "https://shop.example/\r\nHost: x",
            "https://shop.example/ x",
            " https://shop.example/",
            "https://x.example/\t",
        ),
        *("https://shop.example/\x00", "https://shop.example/ü", "https://shop.example/#part", "https://x.example\n"),
        # schemes
        *("ftp://shop.example/", "file:///etc/passwd", "gopher://x.example/", "shop.example", "//shop.example/", ""),
        *("https:/shop.example", "https:shop.example", "HTTPS://shop.example", "javascript:1", "unix:///run/x"),
        # ports
        *(
            "https://shop.example:0/",
            "https://shop.example:22/",
            "https://shop.example:25/",
            "https://x.example:70000/",
        ),
        *("https://shop.example:/", "https://shop.example:443x/", "https://shop.example:-1/", "https://x.example:１/"),
        "https://shop.example/" + "x" * 2048,
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_what_could_be_understood_in_two_ways_is_refused(url: str, allow_private: bool) -> None:
    with pytest.raises(Refused):
        destination_of(url, allow_private=allow_private)


def test_http_needs_the_setting_and_a_private_address() -> None:
    for url in ("http://shop.example/", "http://127.0.0.1/"):
        with pytest.raises(Refused, match="https"):
            destination_of(url, allow_private=False)
    assert destination_of("http://127.0.0.1:9999/", allow_private=True).port == 9999
    with pytest.raises(Refused, match="private addresses alone"):
        destination_of("http://8.8.8.8/", allow_private=True)


@given(st.text(max_size=60))
def test_a_url_is_taken_or_refused_and_what_aiohttp_connects_to_is_what_was_checked(text: str) -> None:
    for url in (text, f"https://{text}"):
        try:
            destination = destination_of(url, allow_private=False)
        except Refused:
            continue
        assert URL(url, encoded=True).raw_host == destination.host


def test_neither_refusals_nor_what_is_shown_quote_secrets() -> None:
    for url in ("https://user:hunter2@x.example/", "https://10.0.0.1/?hunter2", "https://x.example:22/?hunter2"):
        with pytest.raises(Refused) as refused:
            destination_of(url, allow_private=False)
        assert "hunter2" not in str(refused.value)
    assert destination_of("https://x.example/hunter2?t=hunter2", allow_private=False).shown == "https://x.example:443"


# ── names


def answer(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, ...]) -> list[str]:
    """Have the name server give these answers, one after the other. Returns the names that were asked for."""
    asked: list[str] = []
    left = list(answers)

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [
            (socket.AF_INET6, 1, 6, "", (it, port, 0, 0)) if ":" in it else (socket.AF_INET, 1, 6, "", (it, port))
            for it in left.pop(0)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("address", [*PRIVATE, *NOBODY, "fe80::1%eth0"])
async def test_a_name_that_resolves_to_a_private_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    answer(monkeypatch, (address,))
    with pytest.raises(AddressRefused):
        await CheckedResolver("https", allow_private=False).resolve("shop.example", 443)


async def test_of_several_addresses_only_those_that_are_allowed_are_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, ("127.0.0.1", "8.8.8.8", "::1", "2606:4700::1111", "8.8.8.8"))
    found = await CheckedResolver("https", allow_private=False).resolve("shop.example", 443)
    assert [(it["host"], it["hostname"], it["port"]) for it in found] == [
        ("8.8.8.8", "shop.example", 443),
        ("2606:4700::1111", "shop.example", 443),
    ]


async def test_http_goes_to_private_addresses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ("8.8.8.8",), ("8.8.8.8", "10.0.0.1"))
    resolver = CheckedResolver("http", allow_private=True)
    with pytest.raises(AddressRefused, match="https"):
        await resolver.resolve("shop.example", 80)
    assert [it["host"] for it in await resolver.resolve("shop.example", 80)] == ["10.0.0.1"]


async def test_a_name_that_changes_between_two_answers_is_asked_once_for_each_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection goes to an address of the answer that was checked: there is no second look-up."""
    asked = answer(monkeypatch, ("127.0.0.1",), ("10.0.0.1",))
    resolver = CheckedResolver("https", allow_private=False)
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        for count in (1, 2):
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session.post("https://shop.example/")
            assert isinstance(refused.value.os_error, AddressRefused)
            assert asked == ["shop.example"] * count


async def test_a_name_server_that_does_not_answer_holds_up_neither_others_nor_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = threading.Event()

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host.startswith("silent"):
            answers.wait()
        return [(socket.AF_INET, 1, 6, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = CheckedResolver("https", allow_private=False)
    silent = [asyncio.create_task(resolver.resolve(f"silent{number}.example", 443)) for number in range(63)]
    await asyncio.sleep(0)
    for _ in range(3):
        assert await resolver.resolve("shop.example", 443)
    assert all(it.daemon for it in threading.enumerate() if it.name == "resolve")
    silent.append(asyncio.create_task(resolver.resolve("silent.example", 443)))
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="too many names"):
        await resolver.resolve("shop.example", 443)
    silent[0].cancel()
    answers.set()
    await asyncio.wait(silent)
    assert await resolver.resolve("shop.example", 443)


async def test_a_host_whose_name_server_is_silent_holds_one_thread_however_often_it_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each hook of that host tries again and again, and gives up before its name server does."""
    answers, asked = threading.Event(), []

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append((host, port))
        if host == "silent.example":
            answers.wait()
        return [(socket.AF_INET, 1, 6, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = CheckedResolver("https", allow_private=False)

    async def tries(port: int) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await resolver.resolve("silent.example", port)

    await asyncio.gather(*(tries(port) for port in (443, 8443) for _ in range(100)))
    await tries(443)
    last = asyncio.create_task(resolver.resolve("silent.example", 443))
    assert await resolver.resolve("shop.example", 443)
    assert sorted(asked) == [("shop.example", 443), ("silent.example", 443), ("silent.example", 8443)]
    answers.set()
    assert [it["host"] for it in await last] == ["8.8.8.8"]
    assert await resolver.resolve("silent.example", 443)
    assert asked.count(("silent.example", 443)) == 2


async def test_all_that_wait_for_one_look_up_get_its_error_and_the_next_asks_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers, asked = threading.Event(), []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        answers.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = CheckedResolver("https", allow_private=False)
    tries = [asyncio.create_task(resolver.resolve("shop.example", 443)) for _ in range(3)]
    await asyncio.sleep(0)
    tries[0].cancel()
    answers.set()
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(it) for it in results] == [asyncio.CancelledError, socket.gaierror, socket.gaierror]
    with pytest.raises(socket.gaierror):
        await resolver.resolve("shop.example", 443)
    assert asked == ["shop.example"] * 2
    assert not caplog.records
