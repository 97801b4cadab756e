"""`down`: stops the stack, waits until none of its processes is left, and with --purge deletes its data."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from stack.errors import HeadraceError
from stack.home.directory import MARKER, Home
from stack.run.up import kill_supervisor, supervisor_or_keeper
from stack.terminal import say, spinner

# Services have 30 s to finish the work in hand, then the servers have 20 s.
ORDERLY_S = 60.0
KILLED_S = 10.0
POLL_S = 0.05


def down(home: Home, *, purge: bool, but: tuple[str, ...] = ()) -> int:
    """Stop the stack. Returns 0. A test run below `home` goes on, and keeps its directory.

    A purge keeps the files named in `but`.
    """
    since = time.monotonic()
    if home.is_held():
        with spinner("stopping"):
            _stop(home)
        say(f"stopped in {time.monotonic() - since:.1f} s")
    else:
        say("nothing is running")
    if purge:
        remove_data(home, but)
    return 0


def _stop(home: Home) -> None:
    if _wait(home, ORDERLY_S, ask=True):
        return
    kill_supervisor(home)
    if not _wait(home, KILLED_S, ask=False):
        raise _does_not_end(home)


def _does_not_end(home: Home) -> HeadraceError:
    what = "a process of the stack does not end"
    if keeper := home.holder():
        return HeadraceError(what, f"see the children of process {keeper}", f"kill -9 {keeper}")
    return HeadraceError(what, f"an unknown process holds the lock {home.lock}", "find it: lslocks")


def _wait(home: Home, timeout_s: float, *, ask: bool) -> bool:
    """Wait until the lock is free. With `ask`, signal the supervisor once, or its keeper if no state file names it."""
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


def remove_data(home: Home, but: tuple[str, ...] = ()) -> None:
    """Delete what Headrace keeps in `home`, except the names in `but`. Prints what stays, and why.

    Raises HeadraceError if `home` is not Headrace's directory, or cannot be deleted.
    """
    if not os.path.lexists(home.path):
        return
    home.check_ours()
    lock = home.try_lock()
    if lock is None:
        raise HeadraceError("cannot purge", "another `headrace up` has just started here", "./headrace down --purge")
    kept = home.purge(but=but)
    os.close(lock)
    for run in kept:
        say(f"kept {run.path}: a test run is using it")
    _tell_what_is_left(home, {*(run.path for run in kept), *(home.path / name for name in but)})


def _tell_what_is_left(home: Home, known: set[Path]) -> None:
    if not home.path.exists():
        say(f"removed {home.path}")
        return
    strangers = home.strangers()
    for stranger in strangers:
        say(f"kept {stranger}: Headrace did not create it")
    left = set(home.path.iterdir()) - known - set(strangers) - {home.path / MARKER}
    if left:
        raise HeadraceError(
            f"cannot remove {min(left)}",
            "another user owns it, or the disk is read-only",
            f"rm -r {home.path}, as root",
        )
    say(f"removed all else in {home.path}" if known or strangers else f"removed all that Headrace kept in {home.path}")
