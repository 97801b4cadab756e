"""Keys: what the file may say, what a request must bring, and what happens when the file changes."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from structlog.testing import capture_logs

from pipeline.contract.api_keys import (
    SCOPES,
    InvalidKeys,
    decode_keys,
    encode_keys,
    is_client_name,
    new_token,
    parse_token,
)
from pipeline.process.lifecycle import Misconfigured
from tests.support.data.api_keys import key_of, write_keys
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually
from web.access.clients import ANY_KEY, PUBLIC, Client
from web.access.hosts import is_loopback
from web.access.keys import Keys, bearer_token, load_keys
from web.access.settings import ApiSettings
from web.problems.problems import Problem
from web.requests.head import head_of
from web.requests.operations import Operation
from web.requests.routes import make_routes

ADDRESSES = {
    "DATABASE_URL": "postgresql://x/y",
    "AMQP_URL": "amqp://x",
    "REDIS_URL": "redis://x",
    "ORDER_ID_KEY": "6b" * 32,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api-keys.json"


# ── the token and the file


def test_a_token_is_256_random_bits_that_the_file_does_not_hold() -> None:
    token = new_token()
    parts = parse_token(token)
    assert parts
    assert len(bytes.fromhex(parts[1])) == 32
    assert token.startswith(f"hr_{parts[0]}_")
    assert parts[1] not in encode_keys([key_of(token)])
    assert new_token() != token


@given(st.text() | st.from_regex(r"hr_[0-9a-f]{12}_[0-9a-f]{64}.?"))
def test_what_is_no_token_is_none(text: str) -> None:
    parts = parse_token(text)
    assert parts is None or f"hr_{parts[0]}_{parts[1]}" == text


def test_the_file_says_all_but_the_secret_and_is_read_as_it_was_written() -> None:
    keys = [key_of(new_token()), key_of(new_token(), "a.b-c_9", SCOPES, 100)]
    assert decode_keys(encode_keys(keys).encode()) == keys


GOOD = encode_keys([key_of("hr_0123456789ab_" + "0" * 64)])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", ""),
        ('"shop"', '""'),
        ('"shop"', '"Shop"'),
        ('"shop"', '"shop\\n"'),
        ('"shop"', '"-shop"'),
        ('"shop"', '"s\\thop"'),
        ('"shop"', f'"{"s" * 65}"'),
        ("orders:write", "orders:all"),
        ('"orders:write"', ""),
        ("0123456789ab", "0123456789ax"),
        ('"client"', '"klient"'),
        ('"client"', '"more": 1, "client"'),
        ('"client"', '"orders_per_s": 0, "client"'),
        ('"client"', '"orders_per_s": 1.5, "client"'),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05"),
        ("\n}\n", ""),
    ],
)
def test_half_a_file_is_not_believed(old: str, new: str) -> None:
    assert decode_keys(GOOD.encode())
    assert old in GOOD
    with pytest.raises(InvalidKeys) as raised:
        decode_keys(GOOD.replace(old, new, 1).encode())
    assert key_of("hr_0123456789ab_" + "0" * 64).secret_sha256 not in str(raised.value)


def test_two_keys_with_one_id_are_refused() -> None:
    key = key_of(new_token())
    with pytest.raises(InvalidKeys, match="same id"):
        decode_keys(encode_keys([key, key]).encode())


@given(st.binary())
def test_random_bytes_are_no_keys_and_never_another_error(noise: bytes) -> None:
    with suppress(InvalidKeys):
        assert decode_keys(noise) == []


@pytest.mark.parametrize("name", ["shop", "0", "a" * 64, "eu-west.shop_2"])
def test_names_that_pass_unescaped_everywhere(name: str) -> None:
    assert is_client_name(name)


@pytest.mark.parametrize("name", ["", "a" * 65, "Shop", "--shop", ".shop", "a b", "a\n", "ä", 'a"', "a\\", "a\t"])
def test_names_that_do_not(name: str) -> None:
    assert not is_client_name(name)


# ── what a request brings


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
def test_the_scheme_is_read_in_any_case(scheme: bytes) -> None:
    assert bearer_token([scheme + b"hr_a_b"]) == "hr_a_b"


NO_KEY, NO_GOOD_KEY = 'Bearer realm="headrace"', 'Bearer realm="headrace", error="invalid_token"'


@pytest.mark.parametrize(
    ("values", "challenge"),
    [
        ([], NO_KEY),
        ([b""], NO_KEY),
        ([b"Basic aHI6eA=="], NO_KEY),
        ([b"hr_secret"], NO_KEY),
        ([b"Bearerhr_secret"], NO_KEY),
        ([b"Bearer"], NO_GOOD_KEY),
        ([b"Bearer "], NO_GOOD_KEY),
        ([b"bearer a b"], NO_GOOD_KEY),
        ([b"Bearer a,Bearer b"], NO_GOOD_KEY),
        ([b"Bearer \xff\xfe"], NO_GOOD_KEY),
        ([b"Bearer hr_secret", b"Bearer hr_secret"], NO_GOOD_KEY),
    ],
)
def test_what_is_no_key_is_401_with_a_challenge_and_without_an_echo(values: list[bytes], challenge: str) -> None:
    with pytest.raises(Problem) as raised:
        bearer_token(values)
    problem = raised.value
    assert (problem.status, problem.headers["WWW-Authenticate"]) == (401, challenge)
    assert "secret" not in problem.detail
    assert "aHI6eA" not in problem.detail


def test_only_the_right_secret_of_a_known_id_lets_in(file: Path) -> None:
    token, stranger = new_token(), new_token()
    write_keys(file, key_of(token, orders_per_s=7))
    keys = Keys(file)
    assert keys.client_with(token) == Client("shop", frozenset({"orders:write"}), 7)
    other_secret = token[:16] + stranger[16:]
    for wrong in (stranger, other_secret, token[:-1], f"{token}0", token.upper(), "", "hr__", "hr_" + "0" * 12 + "_"):
        with pytest.raises(Problem, match="not known, or was revoked") as raised:
            keys.client_with(wrong)
        assert (raised.value.status, raised.value.headers["WWW-Authenticate"]) == (401, NO_GOOD_KEY)


# ── the guard


async def call(keys: Keys, needs: str, token: str | None = None) -> Client | Problem:
    """Who an endpoint was reached by, or what kept them out."""
    reached: list[Client] = []

    async def endpoint(request: Request) -> Response:
        reached.append(head_of(request).client)
        return Response()

    app = Starlette(routes=make_routes([Operation("call", "GET", "/", needs)], {"call": endpoint}, keys.guard))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        try:
            await client.get("/", headers=headers)
        except Problem as problem:
            assert not reached
            return problem
    return reached[0]


async def test_each_key_reaches_what_its_scopes_say_and_no_more(file: Path) -> None:
    tokens = {scope: new_token() for scope in SCOPES}
    write_keys(file, *(key_of(token, scopes=[scope]) for scope, token in tokens.items()))
    keys = Keys(file)
    for scope, token in tokens.items():
        for needs in SCOPES:
            found = await call(keys, needs, token)
            if needs == scope:
                assert isinstance(found, Client)
            else:
                assert isinstance(found, Problem)
                assert (found.status, needs in found.detail) == (403, True)
                assert found.headers["WWW-Authenticate"] == f'{NO_KEY}, error="insufficient_scope", scope="{needs}"'
        assert isinstance(await call(keys, ANY_KEY, token), Client)
    assert isinstance(await call(keys, PUBLIC), Client)
    for wanted in (*SCOPES, ANY_KEY):
        found = await call(keys, wanted)
        assert isinstance(found, Problem)
        assert (found.status, found.headers["WWW-Authenticate"]) == (401, NO_KEY)


def test_only_ops_and_an_open_service_see_the_orders_of_others() -> None:
    assert Client("", frozenset()).sees_all
    assert Client("shop", frozenset({"ops"})).sees_all
    assert not Client("shop", frozenset(SCOPES) - {"ops"}).sees_all


async def test_an_open_service_asks_nobody_and_an_endpoint_sees_no_client(file: Path) -> None:
    write_keys(file)
    found = await call(Keys(file), "orders:write", "hr_any_thing")
    assert isinstance(found, Client)
    assert (found.name, found.sees_all, found.orders_per_s) == ("", True, None)


# ── the file changes


def test_a_key_that_is_added_or_revoked_is_heeded_without_a_restart(file: Path) -> None:
    write_keys(file)
    keys = Keys(file)
    assert keys.is_open
    first, second = new_token(), new_token()
    write_keys(file, key_of(first))
    keys.reload()
    assert not keys.is_open
    assert keys.client_with(first).name == "shop"
    write_keys(file, key_of(second, "other"))
    keys.reload()
    assert keys.client_with(second).name == "other"
    with pytest.raises(Problem):
        keys.client_with(first)


@pytest.mark.parametrize("end", ["removed", "without keys", "emptied"])
def test_who_has_seen_keys_never_opens_again(file: Path, end: str) -> None:
    token = new_token()
    write_keys(file, key_of(token))
    keys = Keys(file)
    if end == "removed":
        file.unlink()
    elif end == "emptied":
        file.write_bytes(b"")
    else:
        write_keys(file)
    with capture_logs() as logs:
        keys.reload()
        keys.reload()
    assert not keys.is_open
    assert [(line["log_level"], "nobody gets in" in line["event"]) for line in logs] == [("error", True)]
    with pytest.raises(Problem):
        keys.client_with(token)
    write_keys(file, key_of(token))
    keys.reload()
    assert keys.client_with(token)


def test_a_file_that_is_damaged_later_leaves_the_last_good_keys_and_is_told_once(file: Path) -> None:
    token = new_token()
    write_keys(file, key_of(token))
    keys = Keys(file)
    file.write_text("{")
    with capture_logs() as logs:
        keys.reload()
        keys.reload()
    assert keys.client_with(token)
    assert [line["event"] for line in logs] == ["API keys not read; the last good keys stay"]


def test_a_file_that_cannot_be_read_later_leaves_the_last_good_keys(file: Path) -> None:
    token = new_token()
    write_keys(file, key_of(token))
    keys = Keys(file)
    file.unlink()
    file.mkdir()
    with capture_logs() as logs:
        keys.reload()
    assert keys.client_with(token)
    assert [line["log_level"] for line in logs] == ["error"]


def test_a_change_within_the_clocks_tick_is_seen(file: Path) -> None:
    """mtime has the kernel's ticks, some 4 ms: another inode tells all the same."""
    first, second = new_token(), new_token()
    write_keys(file, key_of(first))
    times = file.stat()
    keys = Keys(file)
    write_keys(file, key_of(second))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    keys.reload()
    assert keys.client_with(second)


async def test_the_watch_reloads_by_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.access.keys._RELOAD_EVERY_S", 0.001)
    write_keys(file)
    keys = Keys(file)
    watching = asyncio.create_task(keys.watch())
    write_keys(file, key_of(new_token()))
    await eventually(lambda: not keys.is_open)
    watching.cancel()


# ── the start


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "127.0.0.1.example.org", "fe80::1"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def start(file: Path | None, host: str, **changes: object) -> Keys:
    return load_keys(settings_from(ApiSettings, ADDRESSES, host=host, API_KEYS_FILE=file, **changes))


def test_without_keys_the_loopback_is_open_and_says_so(file: Path) -> None:
    write_keys(file)
    with capture_logs() as logs:
        assert start(file, "127.0.0.1").is_open
        assert start(None, "127.0.0.1").is_open
    assert {line["event"] for line in logs} == {"no API keys: open to everybody on 127.0.0.1"}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("danger", ["false", "true"])
def test_a_file_that_is_named_and_is_not_there_is_not_the_same_as_no_keys(file: Path, host: str, danger: str) -> None:
    with pytest.raises(
        Misconfigured, match=r"API_KEYS_FILE: .* is not there.* copy; .* keys add; .* \{\"keys\": \[\]\}"
    ):
        start(file, host, ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE=danger)


def test_without_keys_no_other_address_is_served_unless_the_danger_is_named(file: Path) -> None:
    write_keys(file)
    with pytest.raises(Misconfigured, match=r"on 0\.0\.0\.0 anybody could .* keys add .* 127\.0\.0\.1"):
        start(file, "0.0.0.0")
    with capture_logs() as logs:
        assert start(file, "0.0.0.0", ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE="true").is_open
    assert logs[0]["event"] == "no API keys: open to everybody on 0.0.0.0"


def test_what_counts_is_where_others_reach_it(file: Path) -> None:
    """A container listens on all its addresses; its runtime publishes it on one of the machine's."""
    write_keys(file)
    with capture_logs() as logs:
        assert start(file, "0.0.0.0", PUBLISHED_ON="127.0.0.1").is_open
    assert logs[0]["event"] == "no API keys: open to everybody on 127.0.0.1"
    with pytest.raises(Misconfigured, match=r"on 0\.0\.0\.0 anybody could"):
        start(file, "127.0.0.1", PUBLISHED_ON="0.0.0.0")
    with pytest.raises(ValueError, match="PUBLISHED_ON"):
        start(file, "0.0.0.0", PUBLISHED_ON="")


def test_with_keys_any_address_is_served(file: Path) -> None:
    write_keys(file, key_of(new_token()))
    with capture_logs() as logs:
        assert not start(file, "0.0.0.0").is_open
    assert logs == []


def test_a_file_that_is_out_of_reach_keeps_a_service_from_starting_and_later_is_told_once(file: Path) -> None:
    write_keys(file, key_of(token := new_token()))
    with pytest.raises(Misconfigured, match="cannot be read"):
        start(file / "no directory", "127.0.0.1")
    (moved := file.with_name("directory") / file.name).parent.mkdir()
    write_keys(moved)
    keys = Keys(moved)
    moved.unlink()
    moved.parent.rmdir()
    moved.parent.touch()
    with capture_logs() as logs:
        keys.reload()
        keys.reload()
    assert [line["event"] for line in logs] == ["API keys not read; the service stays open"]
    moved.parent.unlink()
    moved.parent.mkdir()
    file.rename(moved)
    keys.reload()
    assert keys.client_with(token)


@pytest.mark.parametrize("damage", ["", "{", '{"keys":[{}]}', "\0"])
def test_a_damaged_file_keeps_the_service_from_starting(file: Path, damage: str) -> None:
    file.write_text(damage)
    with pytest.raises(Misconfigured, match=r"API_KEYS_FILE: .* cannot be read: .* ./headrace keys add"):
        start(file, "127.0.0.1")
