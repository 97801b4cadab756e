"""`logs`: what the services and servers have written."""

from __future__ import annotations

import os
import signal

from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.home.state import SERVERS, SERVICES

# Of what `up` starts: what is shown without a name.
STACK = (*SERVICES, *SERVERS, "epmd", "migrations", "supervisor", "keeper")
# Of what was done once, pip's output for one: shown when asked for by name. Why there may be none.
OTHERS = {
    "apt": "nothing had to be installed by apt-get",
    "venv": "this .venv was made by other means, or for another HEADRACE_HOME",
    "cli": "no command has failed unexpectedly",
}
NAMES = (*STACK, *OTHERS)
LINES = 200


def logs(home: Home, name: str | None, *, follow: bool) -> int:
    """Become `tail` on one log or the stack's. Raises HeadraceError if the name is wrong, or there is none."""
    if name and name not in NAMES:
        raise HeadraceError(f"no log of {name!r}", f"the names are: {', '.join(NAMES)}", "./headrace logs ingest_api")
    paths = [home.log(each) for each in ([name] if name else STACK)]
    found = [str(path) for path in paths if path.exists()]
    if not found:
        raise _none(home, name)
    # Python ignores SIGPIPE, and what it executes inherits that: tail would complain of `| head`.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # -F: goes on when the log is emptied (see logfile), or another file takes its place.
    os.execvp("tail", ["tail", "-n", str(LINES if name else 20), *(["-F"] if follow else []), "--", *found])  # noqa: S606 - no shell wanted


def _none(home: Home, name: str | None) -> HeadraceError:
    if name in OTHERS:
        return HeadraceError(f"no log of {name} in {home.logs}", OTHERS[name], "./headrace doctor")
    what = f"no log of {name} in {home.logs} yet" if name else f"nothing in {home.logs} yet"
    return HeadraceError(what, "it has not been started", "./headrace up -d")
