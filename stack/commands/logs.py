"""`./headrace logs`: shows the logs of services and servers."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.home.directory import Home


def logs(
    service: Annotated[str | None, typer.Argument(help="One service or server. Default: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")] = False,
) -> None:
    """Show the logs of the services and servers."""
    from stack.containers import containers
    from stack.run.logs import logs as run

    if containers.is_used(Home.current()):
        raise typer.Exit(containers.logs(service, follow=follow))
    raise typer.Exit(run(Home.current(), service, follow=follow))
