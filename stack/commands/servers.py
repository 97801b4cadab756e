"""`./headrace servers`, hidden from help: runs the three servers alone, for tests."""

from __future__ import annotations

import typer

from stack.home.directory import Home


def servers() -> None:
    """Run private servers for tests until Ctrl-C. Prints the variables that tests read."""
    from stack.develop.checks import hold_servers

    raise typer.Exit(hold_servers(Home.current()))
