"""What the command line understands and how it answers, without starting anything."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack.checks import BY_NAME_ONLY, STATIC, available_suites, plan
from stack.errors import HeadraceError
from stack.home import ROOT
from stack.state import Part, StackState
from stack.table import as_dict, without_password

SUITES = ["unit", "integration", "system", "chaos"]


def headrace(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stack", *arguments],
        cwd=ROOT,
        env={**os.environ, "HEADRACE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_but_what_is_asked_for_by_name_runs_by_default() -> None:
    run = plan([], SUITES)
    assert run.static == list(STATIC)
    assert run.suites == [suite for suite in SUITES if suite not in BY_NAME_ONLY]
    assert run.needs_servers


def test_suites_are_chosen_by_name_and_run_in_order() -> None:
    run = plan(["system", "lint", "unit", "--", "-k", "lint"], SUITES)
    assert (run.static, run.suites, run.pytest_arguments) == (["lint"], ["unit", "system"], ["-k", "lint"])


def test_unit_needs_no_servers() -> None:
    assert not plan(["unit"], SUITES).needs_servers
    assert not plan(["types"], SUITES).needs_servers


def test_an_unknown_suite_is_an_error_that_names_the_known() -> None:
    with pytest.raises(HeadraceError, match="no suite 'unti'") as raised:
        plan(["unti"], SUITES)
    assert "unit, integration" in raised.value.cause


def test_a_suite_is_a_directory_with_tests(tmp_path: Path) -> None:
    for suite in ("unit", "chaos", "empty"):
        (tmp_path / suite).mkdir()
    (tmp_path / "unit" / "test_x.py").touch()
    (tmp_path / "chaos" / "test_x.py").touch()
    assert available_suites(tmp_path) == ["unit", "chaos"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:1/d", "postgresql://u@h:1/d"),
        ("redis://:secret@h:1/0", "redis://h:1/0"),
        ("amqp://u:secret@h:1/%2F", "amqp://u@h:1/%2F"),
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
    assert shown["services"]["ingest_api"] == {"url": "http://h", "pid": None, "state": "stopped", "restarts": 0}
    assert shown["redis"]["pid"] is None


def test_status_of_nothing(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["running"] is False


def test_down_of_nothing_is_no_error(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "down", "--purge")
    assert (done.returncode, done.stdout) == (0, "nothing is running\n")


def test_an_error_says_what_cause_and_mend(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "logs", "nginx")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no log of 'nginx'\n  cause: the names are: ingest_api, ")


def test_an_error_can_be_printed_in_ascii(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "demo", PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert done.returncode == 1
    assert "mend:  ./headrace up -d" in done.stderr


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
    assert "mend:" in done.stderr


def _make_venv(root: Path) -> None:
    """What the script would have made: this Python under the name it looks for, and the stamp of a complete one."""
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    with (root / "requirements.lock").open() as lock:
        checksum = subprocess.run(["cksum"], stdin=lock, capture_output=True, text=True, check=True).stdout.strip()
    major, minor = sys.version_info[:2]
    (root / ".venv" / "headrace-requirements.lock").write_text(f"{checksum} {major} {minor} {sys.base_prefix}\n")
