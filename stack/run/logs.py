"""`logs`: prints the log files of the services and servers."""

from __future__ import annotations

import os
import signal

from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.home.state import SERVERS, SERVICES

# Logs of what `up` starts: shown when no name is given.
STACK = (*SERVICES, *SERVERS, "epmd", "migrations", "supervisor", "keeper")
# Logs of one-time work, such as pip's: shown only by name. The text says why there may be none.
OTHERS = {
    "apt": "nothing had to be installed by apt-get",
    "venv": "this .venv was made by other means, or for another HEADRACE_HOME",
    "cli": "no command has failed unexpectedly",
}
NAMES = (*STACK, *OTHERS)
LINES = 200


def logs(home: Home, name: str | None, *, follow: bool) -> int:
    """Replace this process by `tail` on one log, or on the stack's logs. Raises HeadraceError for a wrong name."""
    if name and name not in NAMES:
        raise HeadraceError(f"no log of {name!r}", f"the names are: {', '.join(NAMES)}", "./headrace logs ingest_api")
    paths = [home.log(each) for each in ([name] if name else STACK)]
    found = [str(path) for path in paths if path.exists()]
    if not found:
        raise _none(home, name)
    # Python ignores SIGPIPE, and an executed program inherits that: tail would complain about `| head`.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # -F: continues when the log is emptied (see logfile), or replaced.
    os.execvp("tail", ["tail", "-n", str(LINES if name else 20), *(["-F"] if follow else []), "--", *found])  # noqa: S606 - no shell wanted


def _none(home: Home, name: str | None) -> HeadraceError:
    if name in OTHERS:
        return HeadraceError(f"no log of {name} in {home.logs}", OTHERS[name], "./headrace doctor")
    what = f"no log of {name} in {home.logs} yet" if name else f"nothing in {home.logs} yet"
    return HeadraceError(what, "it has not been started", "./headrace up -d")
