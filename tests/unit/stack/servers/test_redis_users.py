"""The users of Redis follow from one table, and no line that makes them tells a password."""

import hashlib
from pathlib import Path

import pytest

from stack.errors import HeadraceError
from stack.home.credentials import generate
from stack.home.environment import redis_namespace
from stack.home.state import SERVICES
from stack.servers.accounts import broker_passwords, redis_passwords, redis_urls
from stack.servers.redis_users import RIGHTS, definitions, main, user_name

MADE = generate()


def test_every_service_that_uses_redis_has_a_user_and_nobody_another() -> None:
    assert set(RIGHTS) == set(SERVICES) - {"event_relay"}


def test_a_line_holds_the_hash_of_a_password_and_no_password() -> None:
    passwords = redis_passwords(MADE)
    lines = [*definitions(passwords, "shop")]
    assert not any(password in line for password in (*passwords.values(), MADE.redis) for line in lines)
    for service, line in zip(RIGHTS, lines, strict=True):
        hashed = hashlib.sha256(passwords[service].encode()).hexdigest()
        assert line.startswith(f"shop_{service} reset on #{hashed} resetchannels")


def test_no_user_may_do_what_is_not_about_its_keys() -> None:
    """But ask for the time and for figures: the script of the claims notices by them that Redis has forgotten."""
    about_the_server = {it for rights in RIGHTS.values() for it in rights.commands} & {"info", "time", "config", "acl"}
    assert about_the_server == {"info", "time"}
    for line in definitions(redis_passwords(MADE), "shop"):
        assert not {"+@all", "allcommands", "~*", "allkeys", "&*", "nopass"} & set(line.split())
        assert all(it.partition("~")[2].startswith("shop:") for it in line.split() if "~" in it)


def test_passwords_are_of_one_user_each_and_tell_nobody_elses() -> None:
    passwords = [*redis_passwords(MADE).values(), *broker_passwords(MADE).values(), MADE.redis, MADE.rabbitmq]
    assert len(set(passwords)) == len(passwords)
    assert redis_passwords(MADE) == redis_passwords(MADE), "the same at each start"


def test_addresses_differ_in_the_user_alone() -> None:
    urls = redis_urls("redis://:admin@h:6379/0", MADE, "shop")
    assert urls["ingest_api"] == f"redis://shop_ingest_api:{redis_passwords(MADE)['ingest_api']}@h:6379/0"


def test_two_deployments_share_no_user_and_no_key() -> None:
    assert not {user_name("one", it) for it in RIGHTS} & {user_name("two", it) for it in RIGHTS}


@pytest.mark.parametrize("namespace", ["", "*", "a*", "a b", "shop:", "a\nuser b on nopass ~* +@all", "x" * 41])
def test_a_namespace_that_means_something_to_redis_is_refused(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is not a namespace"):
        [*definitions(redis_passwords(MADE), namespace)]
    if namespace:  # an empty variable is one that is not set
        monkeypatch.setenv("REDIS_NAMESPACE", namespace)
        with pytest.raises(HeadraceError, match="REDIS_NAMESPACE"):
            redis_namespace(MADE)


def test_up_finds_the_namespace_as_the_services_will(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ORDER_ID_KEY", "REDIS_NAMESPACE", "SECRETS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    assert redis_namespace(MADE) == MADE.namespace
    monkeypatch.setenv("ORDER_ID_KEY", "5e" * 32)
    assert redis_namespace(MADE) != MADE.namespace
    monkeypatch.setenv("SECRETS_DIRECTORY", str(tmp_path))
    (tmp_path / "REDIS_NAMESPACE").write_text("of-a-file\n")
    assert redis_namespace(MADE) == "of-a-file"
    monkeypatch.setenv("REDIS_NAMESPACE", "ours")
    assert redis_namespace(MADE) == "ours"


def test_a_command_prints_what_an_administrator_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shop", str(tmp_path)]) == 1
    assert "ingest_api" in capsys.readouterr().err, "the first file that is missing"
    for service in RIGHTS:
        (tmp_path / service).write_text(f"{service}-password\n")
    assert main(["shop", str(tmp_path)]) == 0
    passwords = {service: f"{service}-password" for service in RIGHTS}
    assert capsys.readouterr().out.splitlines() == [f"ACL SETUSER {it}" for it in definitions(passwords, "shop")]
    assert main(["a b", str(tmp_path)]) == 1
    (tmp_path / "product_api").write_text("\n")
    assert main(["shop", str(tmp_path)]) == 1
    assert "product_api" in capsys.readouterr().err
    assert main([]) == 2
