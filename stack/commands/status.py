"""`./headrace status`: shows what runs."""

from __future__ import annotations

import typer

from stack.commands.options import Json
from stack.home.directory import Home


def status(as_json: Json = False) -> None:
    """Show what runs, and at which address. Exits 0 if all is ready, 1 if something is not, 3 if nothing runs."""
    from stack.containers import containers
    from stack.run.status import status as run

    if containers.is_used(Home.current()):
        raise typer.Exit(containers.status(as_json=as_json))
    raise typer.Exit(run(Home.current(), as_json=as_json))
