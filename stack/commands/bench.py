"""`./headrace bench`: runs the benchmarks."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.home.directory import Home, require_checkout


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter runs: 6 minutes instead of 45.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    only: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run one experiment or contender. A wrong name lists them.")
    ] = None,
    document: Annotated[
        bool, typer.Option("--document", help="Write the result into README.md and docs/, and redraw the plots.")
    ] = False,
) -> None:
    """Benchmark Headrace against other designs on private servers. Exits 1 if a run was void."""
    require_checkout("bench")
    from stack.develop.bench import bench as run

    raise typer.Exit(run(Home.current(), quick=quick, as_json=as_json, only=only, document=document))
