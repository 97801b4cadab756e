"""`bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.home.directory import Home, require_checkout


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="6 minutes instead of 45: fewer and shorter runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as JSON on standard output.")] = False,
    only: Annotated[
        str | None, typer.Option(metavar="NAME", help="One experiment or contender; a wrong name lists them.")
    ] = None,
    document: Annotated[
        bool, typer.Option("--document", help="Quote the result in README.md and docs/, and draw the plots anew.")
    ] = False,
) -> None:
    """Measure how fast it is, beside what, at what price, on servers of its own. Exit code 1: a run was void."""
    require_checkout("bench")
    from stack.develop.bench import bench as run

    raise typer.Exit(run(Home.current(), quick=quick, as_json=as_json, only=only, document=document))
