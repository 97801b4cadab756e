"""`./headrace down`: stops the stack."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.home.directory import Home


def down(
    purge: Annotated[bool, typer.Option("--purge", help="Also delete data, credentials, API keys and logs.")] = False,
) -> None:
    """Stop everything that `up` started."""
    from stack.containers import containers
    from stack.run.down import down as run

    home = Home.current()
    if containers.is_used(home):
        raise typer.Exit(containers.down(home, purge=purge))
    if not (purge and containers.has_data(home)):
        raise typer.Exit(run(home, purge=purge))
    if home.is_held():
        code = run(home, purge=True, but=(containers.DATA_MARK,))
        containers.tell_data_kept()
        raise typer.Exit(code)
    containers.down(home, purge=True)
    if home.path.exists():
        run(home, purge=True)
