"""Who runs the services under root: what is asked before, and what is said where it cannot be."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from stack.home.directory import ROOT, Home
from stack.home.key_file import add_key, ensure_file
from stack.process.identity import Identity, identity_for, services_identity, wrap
from stack.services import user as service_user
from stack.services.user import choose_user, environment_of, named_paths, on_port, remedy, socket_variable, ways_to

NOBODY = Identity("nobody", 65534, 65534)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


@pytest.mark.parametrize(
    ("server", "url", "variable"),
    [
        ("postgres", "postgresql:///headrace?host=/run/postgresql", "DATABASE_URL"),
        ("postgres", "postgresql:///headrace?host=db.example,/run/postgresql", "DATABASE_URL"),
        ("postgres", "postgresql://headrace@%2Frun%2Fpostgresql/headrace", "DATABASE_URL"),
        ("redis", "unix:///run/redis/redis.sock", "REDIS_URL"),
        ("postgres", "postgresql://headrace:a%2Fb@db.example:5432/headrace?sslrootcert=/etc/ca.pem", None),
        ("rabbitmq", "amqp://a:b@one.example/%2F,amqp://a:b@two.example/%2F", None),
        ("redis", "redis://:secret@cache.example:6379/0", None),
    ],
)
def test_an_address_through_a_socket_is_known(server: str, url: str, variable: str | None) -> None:
    assert socket_variable({server: url}) == variable


def test_files_that_settings_name_are_known() -> None:
    urls = {
        "postgres": "postgresql://a:b@db.example/x?sslmode=verify-full&sslrootcert=/etc/db.pem",
        "rabbitmq": "amqps://a:b@one.example/%2F?cafile=/etc/one.pem,amqps://a:b@two.example/%2F?cafile=/etc/two.pem",
    }
    environment = {"HOME": "/home/owner", "SECRETS_DIRECTORY": "/run/secrets", "SSL_CERT_FILE": "", "PATH": "/usr/bin"}
    expected = ["/etc/db.pem", "/etc/one.pem", "/etc/two.pem", "/run/secrets", "/home/owner/.postgresql"]
    assert named_paths(environment, urls) == [Path(name) for name in expected]
    assert named_paths({"HOME": "/home/owner"}, {}) == []


def test_what_is_above_is_asked_first() -> None:
    assert ways_to([Path("/a/b"), Path("/a/c")]) == [Path("/"), Path("/a"), Path("/a/b"), Path("/a/c")]


def test_the_remedy_is_that_of_what_lies_behind() -> None:
    needed = {
        Path("/srv"): "move",
        Path("/srv/it"): "open",
        Path("/private/python"): "another",
        Path("/srv/it/web"): "fix",
    }
    assert remedy(Path("/srv"), needed) == "move"
    assert remedy(Path("/private"), needed) == "another"
    assert remedy(Path("/srv/it/web/static/page"), needed) == "fix"


def test_a_port_of_roots_is_opened_with_one_capability_and_any_other_with_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    first.write_text("1024\n")
    monkeypatch.setattr(service_user, "_LOW_PORTS_END", first)
    assert on_port(NOBODY, 1024) == NOBODY
    assert on_port(None, 80) is None
    command = wrap(["true"], on_port(NOBODY, 1023))
    assert {"--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"} < set(command)
    assert not any("caps" in word for word in wrap(["true"], NOBODY))


def test_who_is_not_root_becomes_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert services_identity() is None
    assert environment_of(None, {"HOME": "/home/owner"}) == {"HOME": "/home/owner"}


def test_a_server_that_may_ask_who_calls_is_called_by_root(home: Home) -> None:
    choice = choose_user(NOBODY, home, {}, {"redis": "unix:///run/redis/redis.sock"})
    assert choice.identity is None
    assert choice.text.startswith("services run as root: REDIS_URL names a socket")


@as_root
def test_what_the_user_cannot_read_keeps_the_services_with_root_and_is_named(home: Home, tmp_path: Path) -> None:
    ensure_file(home)
    tmp_path.chmod(0o700)
    choice = choose_user(NOBODY, home, {}, {})
    assert choice.identity is None
    assert choice.text.startswith("services run as root: nobody cannot read /")
    assert "; " in choice.text, "what to do comes with it"


@as_root
def test_a_closed_file_in_the_midst_of_open_ones_is_found() -> None:
    nobody = identity_for("nobody")
    assert nobody
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # pytest's own directory is closed
        directory = Path(name)
        directory.chmod(0o755)
        for file in ("one.py", "two.py"):
            (directory / file).write_text("")
            (directory / file).chmod(0o644)
        cache = directory / "__pycache__"
        cache.mkdir(mode=0o700)
        found = service_user._first_closed
        assert found(nobody, service_user._TREE, [directory]) is None
        (directory / "two.py").chmod(0o600)
        assert found(nobody, service_user._TREE, [directory]) == directory / "two.py"
        assert found(nobody, service_user._WAY, ways_to([directory / "one.py"])) is None
        assert found(nobody, service_user._WAY, ways_to([directory / "two.py"])) == directory / "two.py"


@as_root
def test_a_home_that_the_user_cannot_enter_is_not_handed_on(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert environment_of(NOBODY, {"HOME": str(tmp_path)})["HOME"] != str(tmp_path)
    assert environment_of(NOBODY, {"HOME": "/"}) == {"HOME": "/"}


@as_root
def test_the_services_group_reads_the_keys_and_nobody_but_root_writes_them(home: Home) -> None:
    services = services_identity()
    assert services
    add_key(home, "shop", ["orders:write"], None)
    _is_shared(home.api_keys, services)
    home.api_keys.chmod(0o600)
    os.chown(home.api_keys, 0, 0)
    ensure_file(home)
    _is_shared(home.api_keys, services)
    assert stat.S_IMODE(home.own_api_key.stat().st_mode) == 0o600


def _is_shared(file: Path, services: Identity) -> None:
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, services.gid, 0o640)


def test_all_code_that_is_asked_for_is_there() -> None:
    assert all((path / "__init__.py").exists() for path in service_user.CODE)
    assert all(ROOT in path.parents for path in service_user.CODE)
