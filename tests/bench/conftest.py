"""The contenders run on packages of their own: .venv-bench is made from its lock file when it is missing."""

from pathlib import Path

import pytest

from stack.develop.bench_venv import ensure_venv


@pytest.fixture(scope="session")
def bench_python() -> Path:
    """The interpreter of .venv-bench. Without a way to the package index this is an error, never a skip."""
    return ensure_venv()
