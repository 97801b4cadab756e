"""What the command line understands and how it answers, without starting anything."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from event_relay.settings import RelaySettings
from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from pipeline.process.settings import ProcessSettings
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings
from stack.develop import checks
from stack.home.directory import ROOT, Home
from stack.home.environment import HEALTH_PORTS, SERVICE_PORTS
from stack.home.state import SERVICES, Part, StackState
from stack.run.doctor import disk
from stack.run.table import as_dict, without_password
from stack.run.up import choose_product


def headrace(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stack", *arguments],
        cwd=ROOT,
        env={**os.environ, "HEADRACE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:1/d", "postgresql://u@h:1/d"),
        ("redis://:secret@h:1/0", "redis://h:1/0"),
        ("amqp://u:secret@h:1/%2F", "amqp://u@h:1/%2F"),
        ("amqp://u:secret@h:1/%2F,amqp://u:secret@i:1/%2F", "amqp://u@h:1/%2F,amqp://u@i:1/%2F"),
        ("http://h:1/x", "http://h:1/x"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_state_file_of_the_dead_shows_nothing_alive() -> None:
    state = StackState(
        "ready", parts={"ingest_api": Part("http://h", 5, "ready"), "redis": Part("redis://", 6, "ready")}
    )
    shown = as_dict(state, is_running=False)
    assert shown["running"] is False
    assert shown["services"]["ingest_api"] == {
        "url": "http://h",
        "pid": None,
        "state": "stopped",
        "restarts": 0,
        "why": None,
    }
    assert shown["redis"]["pid"] is None


@pytest.mark.parametrize("is_running", [True, False])
def test_a_status_has_every_part_whatever_is_known_of_it(is_running: bool) -> None:
    state = StackState("starting", parts={"postgres": Part("postgresql://h", state="external")})
    shown = as_dict(state, is_running=is_running)
    nothing = {"url": None, "pid": None, "state": "stopped", "restarts": 0, "why": None}
    assert shown["services"] == dict.fromkeys(SERVICES, nothing)
    assert shown["rabbitmq"] == shown["redis"] == nothing
    assert shown["postgres"] == {**nothing, "url": "postgresql://h", "state": "external"}


def test_status_of_nothing(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["running"] is False


def test_down_of_nothing_is_no_error(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "down", "--purge")
    assert (done.returncode, done.stdout) == (0, "nothing is running\n")


def test_down_purge_leaves_the_servers_of_a_test_run_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    run = Home(home.path / "test-1")
    for each in (home, run):
        each.create()
    lock = run.try_lock()
    done = headrace(home.path, "down", "--purge")
    assert done.returncode == 0
    assert f"kept {run.path}: a test run is using it\n" in done.stdout
    assert run.logs.exists()
    assert not home.logs.exists()
    assert lock is not None
    os.close(lock)


def test_an_interrupt_as_the_servers_stop_does_not_lose_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def servers(_: Home) -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "_Servers", servers)
    monkeypatch.setattr(checks, "_pytest", lambda *_: True)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert checks.run_suites(Home(tmp_path), ["system"]) == 0
    assert "headrace test: all passed (side by side" in capsys.readouterr().out


def test_an_error_says_what_cause_and_mend(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "logs", "nginx")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no log of 'nginx'\n  cause: the names are: ingest_api, ")


def test_a_log_that_need_not_be_there_says_why(tmp_path: Path) -> None:
    assert "nothing had to be installed" in headrace(tmp_path / "home", "logs", "apt").stderr
    assert "no log of redis" in headrace(tmp_path / "home", "logs", "redis").stderr


def test_logs_into_a_reader_that_has_had_enough_are_silent(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.log("redis").write_text("a line\n" * 100_000)
    command = [
        "sh",
        "-c",
        'HEADRACE_HOME="$1" "$2" -m stack logs redis -f | head -n 1',
        "sh",
        str(home.path),
        sys.executable,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout, done.stderr) == ("a line\n", "")


@pytest.mark.parametrize("variable", ["INGEST_API_PORT", "DATABASE_URL", "AMQP_URL", "REDIS_URL"])
def test_a_wrong_variable_is_refused_before_anything_is_started(tmp_path: Path, variable: str) -> None:
    done = headrace(tmp_path / "home", "up", "-d", **{variable: "localhost:x"})
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {variable}")
    assert not (tmp_path / "home" / "state.json").exists()


def test_the_ports_of_the_services_are_those_of_their_settings() -> None:
    settings: dict[str, type[ProcessSettings]] = {
        "ingest_api": IngestSettings,
        "persist_worker": PersistSettings,
        "product_consumer": ConsumerSettings,
        "product_api": ProductSettings,
        "event_relay": RelaySettings,
    }
    assert {name: each.model_fields["port"].default for name, each in settings.items()} == SERVICE_PORTS
    found = {name: each.model_fields.get("health_port") for name, each in settings.items()}
    assert {name: it.default for name, it in found.items() if it is not None} == HEALTH_PORTS


def test_the_example_orders_what_is_in_stock() -> None:
    seed, most, some = (
        {"id": name, "name": name, "qty": qty} for name, qty in (("Laptop Demo", 2), ("most", 9), ("some", 8))
    )
    assert choose_product([some, most, seed]) == "Laptop Demo"
    assert choose_product([some, most, {**seed, "qty": 1}]) == "most"
    assert choose_product([{**most, "qty": 0}]) is None


def test_tables_in_a_pipe_end_where_their_text_ends(tmp_path: Path) -> None:
    lines = headrace(tmp_path / "home", "doctor").stdout.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_small_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=150_000_000))
    assert disk(Home(tmp_path)).verdict == "problem"


@pytest.mark.parametrize("asked", [["--version"], ["-h"], ["test", "--help"]])
def test_help_and_version(tmp_path: Path, asked: list[str]) -> None:
    done = headrace(tmp_path / "home", *asked)
    assert done.returncode == 0
    assert re.search(r"headrace \d|Usage: headrace", done.stdout)


def test_an_error_can_be_printed_in_ascii(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "demo", PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert done.returncode == 1
    assert "fix:   ./headrace up -d" in done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a path with a space, whose `python -m stack` says where it is and what it was told."""
    root = tmp_path / "a checkout"
    (root / "stack").mkdir(parents=True)
    for name in ("headrace", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, root)
    (root / "stack" / "__main__.py").write_text(
        "import os, sys; print(os.getcwd(), os.environ['HEADRACE_HOME'], sys.argv[1:])"
    )
    return root


def test_the_script_works_from_anywhere_through_a_link(checkout: Path, tmp_path: Path) -> None:
    _make_venv(checkout)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "hr").symlink_to("../a checkout/headrace")
    environment = {**os.environ, "HEADRACE_HOME": "mine"}
    command = ["sh", str(tmp_path / "bin" / "hr"), "logs", "a b"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{checkout} {tmp_path / 'mine'} ['logs', 'a b']\n"


def test_an_unusable_python_is_an_error_with_the_command_that_mends_it(checkout: Path) -> None:
    environment = {**os.environ, "HEADRACE_PYTHON": "/bin/false", "HEADRACE_HOME": str(checkout / "home")}
    command = ["sh", str(checkout / "headrace"), "up"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: HEADRACE_PYTHON=/bin/false cannot be used\n")
    assert "fix:" in done.stderr


def _make_venv(root: Path) -> None:
    """What the script would have made: this Python under the name it looks for, and the stamp of a complete one."""
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    with (root / "requirements.lock").open() as lock:
        checksum = subprocess.run(["cksum"], stdin=lock, capture_output=True, text=True, check=True).stdout.strip()
    major, minor = sys.version_info[:2]
    (root / ".venv" / "headrace-requirements.lock").write_text(f"{checksum} {major} {minor} {sys.base_prefix}\n")
