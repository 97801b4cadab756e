"""`logs`: what the services and servers have written."""

from __future__ import annotations

import os

from stack.errors import HeadraceError
from stack.home import Home
from stack.state import SERVERS, SERVICES

NAMES = (*SERVICES, *SERVERS, "epmd", "migrations", "supervisor", "keeper", "apt", "cli")
LINES = 200


def logs(home: Home, name: str | None, *, follow: bool) -> int:
    """Become `tail` on one log or on all there are. Raises HeadraceError for an unknown name, or when there is none."""
    if name and name not in NAMES:
        raise HeadraceError(f"no log of {name!r}", f"the names are: {', '.join(NAMES)}", "./headrace logs ingest_api")
    paths = [home.log(each) for each in ([name] if name else NAMES)]
    found = [str(path) for path in paths if path.exists()]
    if not found:
        raise HeadraceError(f"nothing in {home.logs} yet", "it has not been started", "./headrace up -d")
    # -F: goes on through a rotation.
    os.execvp("tail", ["tail", "-n", str(LINES if name else 20), *(["-F"] if follow else []), "--", *found])  # noqa: S606 - no shell wanted
