"""`doctor`."""

from __future__ import annotations

import typer

from stack.home.directory import Home


def doctor() -> None:
    """What is installed, which ports, and what `up` would do. Exit code 0: `up` would work."""
    from stack.containers import containers
    from stack.run.doctor import doctor as run

    home = Home.current()
    raise typer.Exit(run(home, containers.describe(home), is_in_containers=containers.is_used(home)))
