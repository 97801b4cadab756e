"""`servers`, which no help shows: the three servers alone, as tests use them."""

from __future__ import annotations

import typer

from stack.home.directory import Home


def servers() -> None:
    """Run the three servers alone, as tests use them, until Ctrl-C; print the variables that tests read."""
    from stack.develop.checks import hold_servers

    raise typer.Exit(hold_servers(Home.current()))
