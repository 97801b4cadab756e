"""`./headrace doctor`: checks whether `up` would work."""

from __future__ import annotations

import typer

from stack.home.directory import Home


def doctor() -> None:
    """Show what is installed, which ports are free, and what `up` would do. Exits 0 if `up` would work."""
    from stack.containers import containers
    from stack.run.doctor import doctor as run

    home = Home.current()
    raise typer.Exit(run(home, containers.describe(home), is_in_containers=containers.is_used(home)))
