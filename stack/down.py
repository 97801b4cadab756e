"""`down`: stop what runs, wait until nothing of it is left, and with --purge remove its data."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from stack.console import say, spinner
from stack.errors import HeadraceError
from stack.home import Home
from stack.up import kill_supervisor, supervisor_or_keeper

# Services have 30 s to finish what they hold, the servers 20 s after them.
ORDERLY_S = 60.0
KILLED_S = 10.0
POLL_S = 0.05


def down(home: Home, *, purge: bool) -> int:
    """Returns 0: nothing runs any more. A test run below `home` is left alone, and so is its directory."""
    since = time.monotonic()
    if home.is_held():
        with spinner("stopping"):
            _stop(home)
        say(f"stopped in {time.monotonic() - since:.1f} s")
    else:
        say("nothing is running")
    if purge:
        _purge(home)
    return 0


def _stop(home: Home) -> None:
    if _wait(home, ORDERLY_S, ask=True):
        return
    kill_supervisor(home)
    if not _wait(home, KILLED_S, ask=False):
        raise _does_not_end(home)


def _does_not_end(home: Home) -> HeadraceError:
    what = "something of the stack does not end"
    if keeper := home.holder():
        return HeadraceError(what, f"see the children of process {keeper}", f"kill -9 {keeper}")
    return HeadraceError(what, f"a process without a name holds {home.lock}", "see which: lslocks")


def _wait(home: Home, timeout_s: float, *, ask: bool) -> bool:
    """Wait until the lock is free. The supervisor is told once; by its keeper when the state file does not name it."""
    deadline = time.monotonic() + timeout_s
    while home.is_held():
        if ask and (pid := supervisor_or_keeper(home)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            ask = False
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _purge(home: Home) -> None:
    if not home.path.exists():
        return
    lock = home.try_lock()
    if lock is None:
        raise HeadraceError("cannot purge", "another `headrace up` has just started here", "./headrace down --purge")
    kept = home.purge()
    os.close(lock)
    for run in kept:
        say(f"kept {run.path}: a test run is using it")
    say(f"removed {'all else in ' if kept else ''}{home.path}")
