"""The `headrace` script itself: the virtual environment that it makes, with lock files of no packages."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script beside a `stack` that does nothing, in a path with a space."""
    root = tmp_path / "a checkout"
    (root / "stack").mkdir(parents=True)
    shutil.copy(ROOT / "headrace", root)
    (root / "stack" / "__main__.py").write_text("import sys; print('stack', *sys.argv[1:])\n")
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (root / lock).write_text(f"# {lock}: nothing\n")
    return root


def headrace(checkout: Path, *arguments: str) -> list[str]:
    """The lines that it prints."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(checkout)}
    run = [str(checkout / "headrace"), *arguments]
    return subprocess.run(run, env=environment, cwd="/", text=True, capture_output=True, check=True).stdout.splitlines()


def test_the_environment_of_a_running_stack_is_added_to_and_never_emptied(checkout: Path) -> None:
    assert headrace(checkout, "status")[-1] == "stack status"
    in_use = checkout / ".venv" / "in-use"
    in_use.touch()
    assert "making .venv" in headrace(checkout, "test", "unit")[0]
    assert in_use.exists()
    assert headrace(checkout, "up", "-d") == ["stack up -d"]  # what test needs has what up needs

    (checkout / "requirements.lock").write_text("# nothing else\n")
    (checkout / "requirements-dev.lock").write_text("# nothing else\n")
    assert "making .venv" in headrace(checkout, "status")[0]
    assert not in_use.exists()


def test_an_environment_that_was_not_completed_is_made_again(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(shutil.which("sh") or "/bin/sh")
    first, *_, last = headrace(checkout, "doctor")
    assert "making .venv" in first
    assert last == "stack doctor"
