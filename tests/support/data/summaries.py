"""Lines that a test prints at the end of a run, passed or not: what was tried, and how much.

tests/conftest.py imports all three.
"""

from collections.abc import Callable

import pytest

_TOLD = "told"
_lines: list[str] = []


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that prints a line below the results. In a parallel run another process prints it."""
    return lambda line: request.node.user_properties.append((_TOLD, line))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _lines.extend(str(line) for name, line in report.user_properties if name == _TOLD)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _lines:
        terminalreporter.section("what was tried")
        for line in _lines:
            terminalreporter.line(line)
