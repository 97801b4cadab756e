"""Keys: what the file may say, what a request must bring, and what happens when the file changes."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from structlog.testing import capture_logs

from pipeline.contract.api_keys import SCOPES, new_token
from tests.support.data.api_keys import key_of, write_keys
from tests.support.time.conditions import eventually
from web.access.clients import ANY_KEY, PUBLIC, Client
from web.access.keys import Keys, bearer_token
from web.problems.problems import Problem
from web.requests.head import head_of
from web.requests.operations import Operation
from web.requests.routes import make_routes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api-keys.json"


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
    assert [(line["log_level"], "every request is refused" in line["event"]) for line in logs] == [("error", True)]
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
    assert [line["event"] for line in logs] == ["cannot read the API keys; the last good keys stay"]


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
