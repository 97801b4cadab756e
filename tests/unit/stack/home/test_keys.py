"""`./headrace keys` while nothing runs: what it writes, what it prints where, and what it refuses."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.contract.api_keys import SCOPES, hash_secret, parse_token
from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home
from stack.home.key_file import OWN_CLIENT, add_key, ensure_file, own_token, read_keys, remove_key
from stack.operate import keys as commands
from stack.process.identity import services_identity
from stack.run import doctor
from web.access.keys import Keys
from web.problems.problems import Problem


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def start(home: Home, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stack", "keys", *arguments],
        cwd=ROOT,
        env={**os.environ, "HEADRACE_HOME": str(home.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def keys(home: Home, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Standard output and standard error."""
    with start(home, *arguments) as command:
        out, err = command.communicate(timeout=60)
        assert command.returncode == code, err
        return out, err


def test_add_prints_the_token_alone_and_the_apis_let_it_in(home: Home) -> None:
    out, err = keys(home, "add", "shop", "--scope", "orders:read", "--scope", "orders:write", "--limit", "50")
    token = out.removesuffix("\n")
    assert parse_token(token)
    assert token not in err
    client = Keys(home.api_keys).client_with(token)
    assert (client.name, client.scopes, client.orders_per_s) == ("shop", frozenset({"orders:read", "orders:write"}), 50)


def test_no_file_but_the_stacks_own_holds_a_secret_and_none_is_for_others(home: Home) -> None:
    secret = keys(home, "add", "shop", "--scope", "ops")[0].strip().rpartition("_")[2]
    files = [path for path in home.path.rglob("*") if path.is_file()]
    assert not any(secret in path.read_text() for path in files)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files if path != home.api_keys} == {0o600}
    # Root's services run as another user, who reads this one by its group.
    services, found = services_identity(), home.api_keys.stat()
    group, mode = (services.gid, 0o640) if services else (os.getegid(), 0o600)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), group, mode)
    parts = parse_token(home.own_api_key.read_text().strip())
    assert parts
    assert [key.secret_sha256 for key in read_keys(home) if key.id == parts[0]] == [hash_secret(parts[1])]


def test_list_shows_all_but_the_secrets_to_people_and_to_programs(home: Home) -> None:
    assert "no keys" in keys(home, "list")[0]
    assert json.loads(keys(home, "list", "--json")[0]) == []
    token = add_key(home, "shop", ["orders:write"], 7)
    own, added = json.loads(keys(home, "list", "--json")[0])
    assert (own["client"], own["scopes"], own["orders_per_s"]) == (OWN_CLIENT, list(SCOPES), None)
    assert added.pop("created_at").endswith("+00:00")
    assert added == {"id": token[3:15], "client": "shop", "scopes": ["orders:write"], "orders_per_s": 7}
    shown = keys(home, "list")[0]
    assert re.search(rf"^{token[3:15]} +shop +orders:write +7 ", shown, re.MULTILINE)
    assert not re.search("[0-9a-f]{64}", shown)


def test_revoke_removes_one_key_and_says_when_it_was_the_last(home: Home) -> None:
    first, second = (add_key(home, "shop", ["orders:write"], None) for _ in range(2))
    assert "the last" not in keys(home, "revoke", first[3:15])[1]
    assert first[3:15] not in keys(home, "list")[0]
    assert second[3:15] in keys(home, "list")[0]
    said = keys(home, "revoke", second[3:15])[1]
    assert "It was the last" in said
    assert "keys open" in said


def test_the_first_key_says_what_becomes_of_what_was_sent_without(home: Home) -> None:
    said = keys(home, "add", "shop", "--scope", "orders:read")[1]
    assert "from now on the APIs refuse requests without a key" in said
    assert re.search(r"only a key with orders:read and ops can read them.* Idempotency-Key .* makes a new order", said)
    assert "first" not in keys(home, "add", "other", "--scope", "orders:read")[1]


def test_a_clients_name_is_its_identity_and_whoever_uses_it_again_is_told(home: Home) -> None:
    tokens = [keys(home, "add", "shop", "--scope", "ops")[0].strip() for _ in range(2)]
    assert "shop has other keys" in keys(home, "add", "shop", "--scope", "ops")[1]
    assert "other keys" not in keys(home, "add", "others", "--scope", "ops")[1]
    third = next(key.id for key in read_keys(home) if key.client == "shop" and key.id not in "".join(tokens))
    for key_id in (tokens[0][3:15], third):
        assert "has no key any more" not in keys(home, "revoke", key_id)[1]
    assert "shop has no key any more" in keys(home, "revoke", tokens[1][3:15])[1]
    assert "its identity for ever" in keys(home, "add", "--help")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("shop", [], None), "a key needs a scope"),
        (("shop", ["orders:all"], None), "there is no scope 'orders:all'"),
        (("Shop", ["ops"], None), "'Shop' is not a client's name"),
        (("a\nb", ["ops"], None), "is not a client's name"),
        (("", ["ops"], None), "'' is not a client's name"),
        ((OWN_CLIENT, ["ops"], None), "is the stack itself"),
        (("shop", ["ops"], 0), "0 is not a limit"),
        (("shop", ["ops"], -1), "-1 is not a limit"),
        (("shop", ["ops"], 1_000_001), "1000001 is not a limit"),
    ],
)
def test_what_no_key_may_be_is_an_error_with_what_to_do(
    home: Home, arguments: tuple[str, list[str], int | None], said: str
) -> None:
    with pytest.raises(HeadraceError) as raised:
        commands.add(home, *arguments)
    assert said in str(raised.value)
    assert raised.value.fix
    assert not home.path.exists()


@pytest.mark.parametrize(
    ("key_id", "said"),
    [("0123456789ab", "no key 0123456789ab"), (f"hr_0123456789ab_{'0' * 64}", "its id is 0123456789ab")],
)
def test_what_is_no_id_is_an_error_that_shows_no_secret(home: Home, key_id: str, said: str) -> None:
    out, err = keys(home, "revoke", key_id, code=1)
    assert out == ""
    assert said in err
    assert "fix:" in err
    assert "0" * 64 not in err


def test_the_stacks_own_key_can_be_revoked_and_other_keys_do_not_bring_it_back(home: Home) -> None:
    """It was refused, so a key file that is shipped elsewhere always held a key of all scopes."""
    token = add_key(home, "shop", ["ops"], None)
    own = read_keys(home)[0]
    assert "the stack's own key" in keys(home, "revoke", own.id)[1]
    assert [key.client for key in read_keys(home)] == ["shop"]
    add_key(home, "till", ["ops"], None)
    assert [key.client for key in read_keys(home)] == ["shop", "till"]
    keys(home, "revoke", token[3:15])
    assert [key.client for key in read_keys(home)] == ["till"]
    assert not starts_open(home)


def test_whoever_needs_the_stacks_own_key_on_this_machine_gets_a_new_one(home: Home) -> None:
    add_key(home, "shop", ["ops"], None)
    before = own_token(home)
    keys(home, "revoke", read_keys(home)[0].id)
    with pytest.raises(Problem, match="not known"):
        Keys(home.api_keys).client_with(before or "")
    after = own_token(home)
    assert after not in (None, before)
    assert Keys(home.api_keys).client_with(after or "").name == OWN_CLIENT


def test_the_last_key_does_not_go_and_leave_the_door_open(home: Home) -> None:
    token = add_key(home, "shop", ["ops"], None)
    keys(home, "revoke", read_keys(home)[0].id)
    keys(home, "revoke", token[3:15])
    (own,) = read_keys(home)
    assert own.client == OWN_CLIENT
    assert "it is the last key" in keys(home, "revoke", own.id, code=1)[1]
    assert not starts_open(home)


@pytest.mark.parametrize(
    "command",
    [
        lambda home: commands.add(home, "shop", ["ops"], None),
        lambda home: commands.show(home, as_json=False),
        lambda home: commands.revoke(home, "0123456789ab"),
        own_token,
    ],
)
def test_a_damaged_file_is_an_error_and_stays_as_it_is(home: Home, command: Callable[[Home], object]) -> None:
    home.create()
    home.api_keys.write_text('{"keys":[')
    with pytest.raises(HeadraceError, match="cannot read the API keys in ") as raised:
        command(home)
    assert raised.value.fix
    assert home.api_keys.read_text() == '{"keys":['


def test_of_many_that_add_at_once_none_loses_its_key(home: Home) -> None:
    commands = [start(home, "add", f"client-{n}", "--scope", "ops") for n in range(6)]
    tokens = [command.communicate(timeout=60)[0].strip() for command in commands]
    known = Keys(home.api_keys)
    assert {known.client_with(token).name for token in tokens} == {f"client-{n}" for n in range(6)}
    assert sum(key.client == OWN_CLIENT for key in read_keys(home)) == 1


# ── with and without keys: what starts open, and what does not


def starts_open(home: Home) -> bool:
    """What the next `up` does. Raises HeadraceError if it does not start."""
    ensure_file(home)
    return Keys(home.api_keys).is_open


def test_before_the_first_key_the_stack_starts_open_and_says_so_in_a_file(home: Home) -> None:
    home.create()
    assert starts_open(home)
    assert starts_open(home)
    assert json.loads(home.api_keys.read_text()) == {"keys": []}
    assert own_token(home) is None
    assert not home.own_api_key.exists()


def test_the_last_key_that_is_revoked_does_not_open_the_door(home: Home) -> None:
    token = add_key(home, "shop", ["ops"], None)
    keys(home, "revoke", token[3:15])
    assert not starts_open(home)


@pytest.mark.parametrize("command", [starts_open, own_token, read_keys, lambda home: remove_key(home, "0123456789ab")])
def test_keys_that_got_lost_open_nothing(home: Home, command: Callable[[Home], object]) -> None:
    add_key(home, "shop", ["ops"], None)
    home.api_keys.unlink()
    with pytest.raises(HeadraceError, match="are gone") as raised:
        command(home)
    assert all(way in raised.value.fix for way in ("copy", "keys add", "keys open"))
    assert not home.api_keys.exists()
    assert doctor._keys(home).verdict == "problem"


def test_keys_that_got_lost_are_made_anew_by_the_next_that_is_added(home: Home) -> None:
    lost = add_key(home, "shop", ["ops"], None)
    home.api_keys.unlink()
    token = add_key(home, "shop", ["ops"], None)
    assert not starts_open(home)
    assert Keys(home.api_keys).client_with(token).name == "shop"
    assert Keys(home.api_keys).client_with(own_token(home) or "").name == OWN_CLIENT
    assert lost[3:15] not in {key.id for key in read_keys(home)}


@pytest.mark.parametrize("is_lost", [False, True])
def test_only_who_says_so_does_without_keys_again(home: Home, is_lost: bool) -> None:
    add_key(home, "shop", ["ops"], None)
    if is_lost:
        home.api_keys.unlink()
    assert "is let in" in keys(home, "open")[1]
    assert starts_open(home)
    assert "no keys" in keys(home, "list")[0]
    add_key(home, "shop", ["ops"], None)
    assert not starts_open(home)


def test_while_the_stack_runs_it_is_not_opened(home: Home) -> None:
    token = add_key(home, "shop", ["ops"], None)
    lock = home.try_lock()
    assert lock is not None
    assert "./headrace down; ./headrace keys open" in keys(home, "open", code=1)[1]
    os.close(lock)
    assert Keys(home.api_keys).client_with(token)
