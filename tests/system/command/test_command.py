"""The `headrace` script: it makes the virtual environment, here from empty lock files."""

import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script, with a `stack` that does nothing, in a path with a space."""
    root = tmp_path / "a checkout"
    (root / "stack").mkdir(parents=True)
    shutil.copy(ROOT / "headrace", root)
    for module in ("cli", "run/down", "run/status", "run/logs", "run/doctor", "operate/keys", "develop/suites"):
        (root / "stack" / f"{module}.py").parent.mkdir(exist_ok=True)
        (root / "stack" / f"{module}.py").touch()
    (root / "stack" / "__main__.py").write_text("import sys; print('stack', *sys.argv[1:])\n")
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (root / lock).write_text(f"# {lock}: nothing\n")
    return root


def run(checkout: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(checkout)}
    command = [str(checkout / "headrace"), *arguments]
    done = subprocess.run(command, env=environment, cwd="/", text=True, capture_output=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def headrace(checkout: Path, *arguments: str) -> list[str]:
    """The printed lines: first the script's own, from standard error, then those of `stack`."""
    done = run(checkout, *arguments)
    return [*done.stderr.splitlines(), *done.stdout.splitlines()]


def change_locks(checkout: Path) -> None:
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (checkout / lock).write_text("# nothing else\n")


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold the lock as a running stack does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_the_environment_of_a_running_stack_is_added_to_and_never_emptied(checkout: Path) -> None:
    assert headrace(checkout, "status")[-1] == "stack status"
    in_use = checkout / ".venv" / "in-use"
    in_use.touch()
    assert "creating .venv" in headrace(checkout, "test", "unit")[0]
    assert in_use.exists()
    assert headrace(checkout, "up", "-d") == ["stack up -d"]  # the packages of `test` include those of `up`

    change_locks(checkout)
    assert "creating .venv" in headrace(checkout, "up")[0]
    assert not in_use.exists()


def test_what_a_program_reads_is_not_mixed_with_progress(checkout: Path) -> None:
    done = run(checkout, "status", "--json")
    assert done.stdout == "stack status --json\n"
    assert "creating .venv" in done.stderr


@pytest.mark.parametrize("command", ["down", "status", "logs", "doctor", "keys"])
def test_a_stack_is_stopped_and_looked_at_with_the_packages_it_was_started_with(checkout: Path, command: str) -> None:
    run(checkout, "up")
    change_locks(checkout)
    assert headrace(checkout, command) == [f"stack {command}"]


@pytest.mark.parametrize("lock", ["lock", "test-7/lock"])
def test_an_environment_that_is_in_use_is_not_made_anew(checkout: Path, lock: str) -> None:
    run(checkout, "up")
    change_locks(checkout)
    with held_lock(checkout / ".headrace" / lock):
        for command in ("up", "demo", "test"):
            refused = run(checkout, command, code=1).stderr
            assert "error: cannot replace .venv" in refused
            assert "fix:   ./headrace down" in refused
    assert "creating .venv" in run(checkout, "up").stderr


def test_what_the_script_makes_is_for_its_owner_alone_but_what_it_runs_has_the_callers_umask(checkout: Path) -> None:
    (checkout / "stack" / "__main__.py").write_text("import os; print(oct(os.umask(0)))\n")
    assert run(checkout, "up").stdout == f"{oct(_umask())}\n"
    logs = checkout / ".headrace" / "logs"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (logs, logs / "venv.log")] == [0o700, 0o600]


def _umask() -> int:
    os.umask(now := os.umask(0o022))
    return now


def test_a_suite_that_is_not_there_is_told_before_anything_is_installed(checkout: Path) -> None:
    for name in ("develop/suites.py", "errors.py"):
        shutil.copy(ROOT / "stack" / name, checkout / "stack" / name)
    (checkout / "tests" / "unit").mkdir(parents=True)
    assert "no suite 'nosuch'" in run(checkout, "test", "nosuch", code=1).stderr
    assert not (checkout / ".venv").exists()


def test_an_environment_that_was_not_completed_is_made_again(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(shutil.which("sh") or "/bin/sh")
    first, *_, last = headrace(checkout, "doctor")
    assert "creating .venv" in first
    assert last == "stack doctor"
