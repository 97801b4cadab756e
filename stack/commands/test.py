"""`test`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stack.develop.suites import available_suites, by_default
from stack.home.directory import Home, require_checkout


def run_tests(
    arguments: Annotated[  # noqa: ARG001 - the parser drops the `--` between suites and pytest's arguments
        list[str] | None,
        typer.Argument(
            metavar="SUITE",
            help=f"Default: all of {', '.join(by_default(available_suites()))}. After --: pytest's own arguments.",
        ),
    ] = None,
) -> None:
    """Format, lint, types, layers, then the tests, on servers of their own."""
    require_checkout("test")
    from stack.develop.checks import run_suites

    raise typer.Exit(run_suites(Home.current(), sys.argv[2:]))
