"""Lines that a suite prints at the end of a run, passed or not: what was tried, and how much.

A conftest.py imports both.
"""

from collections.abc import Callable

import pytest

_told = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that prints a line below the results."""
    return request.config.stash.setdefault(_told, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_told, [])
    if lines:
        terminalreporter.section("what was tried")
        for line in lines:
            terminalreporter.line(line)
        lines.clear()  # two suites in one run ask twice
