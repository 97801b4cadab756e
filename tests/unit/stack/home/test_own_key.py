"""The stack's own API key, with which its commands call the APIs."""

from pathlib import Path

import pytest

from pipeline.contract.api_keys import SCOPES, decode_keys
from proof.load_result import Request
from stack.home.directory import Home
from stack.home.key_file import OWN_CLIENT, add_key, own_token, read_keys
from stack.run import doctor
from web.access.keys import Keys


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_without_keys_the_stack_needs_none(home: Home) -> None:
    assert own_token(home) is None
    assert not home.path.exists()


def test_with_the_first_key_comes_the_stacks_own_and_stays(home: Home) -> None:
    add_key(home, "shop", ["ops"], None)
    token = own_token(home)
    add_key(home, "shop", ["ops"], None)
    assert token is not None
    assert own_token(home) == token
    client = Keys(home.api_keys).client_with(token)
    assert (client.name, client.scopes, client.orders_per_s) == (OWN_CLIENT, frozenset(SCOPES), None)


@pytest.mark.parametrize("loss", ["", "hr_0123456789ab_" + "0" * 64, None])
def test_an_own_token_that_got_lost_is_made_anew(home: Home, loss: str | None) -> None:
    token = add_key(home, "shop", ["ops"], None)
    before = own_token(home)
    if loss is None:
        home.own_api_key.unlink()
    else:
        home.own_api_key.write_text(loss)
    after = own_token(home)
    assert after not in (None, before)
    known = Keys(home.api_keys)
    assert known.client_with(after or "").name == OWN_CLIENT
    assert known.client_with(token).name == "shop"
    assert sum(key.client == OWN_CLIENT for key in read_keys(home)) == 1


def test_the_doctor_tells_of_keys_and_calls_a_damaged_file_a_problem(home: Home) -> None:
    assert doctor._keys(home).text.startswith("none: the services are open")
    add_key(home, "shop", ["ops"], None)
    assert doctor._keys(home).text == "1: ./headrace keys list"
    home.api_keys.write_text("{")
    assert doctor._keys(home).verdict == "problem"


def test_a_loads_requests_carry_the_token() -> None:
    raw = Request.post("http://127.0.0.1:8080/api/v1/orders", b"{}", None, "hr_x_y").raw
    assert raw.count(b"\r\nAuthorization: Bearer hr_x_y\r\n") == 1
    assert raw.endswith(b"\r\n\r\n{}")
    assert b"Authorization" not in Request.post("http://127.0.0.1:8080/", b"{}", None).raw


def test_what_is_written_is_what_is_read(home: Home) -> None:
    add_key(home, "shop", ["orders:read"], None)
    assert decode_keys(home.api_keys.read_bytes()) == read_keys(home)
