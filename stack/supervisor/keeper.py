"""The parent of the supervisor: nothing survives it. `python -m stack.supervisor.keeper ROLE HOME`.

A supervisor that is killed cannot stop its children, and process groups do not hold them: PostgreSQL's backends and
RabbitMQ's helpers make groups and sessions of their own, and epmd turns into a daemon. The keeper is a child subreaper
(prctl(2)): whatever below it loses its parent becomes its own child, however it has detached. When the supervisor ends,
in whatever way, the keeper ends all that is left. When the keeper itself is killed, the kernel tells the supervisor
(PR_SET_PDEATHSIG), which then stops everything in order; and when both are killed at once, the kernel tells each server
and service (see identity.wrap).

It holds the lock of the state directory and releases it by ending: a free lock means that nothing is left.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from stack.errors import HeadraceError, disk_full
from stack.home.directory import Home
from stack.process import proc
from stack.supervisor.role import Role

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# From the polite signal to SIGKILL. Only after a crash of the supervisor: everything is built to be killed.
PATIENCE_S = 2.0
POLL_S = 0.02


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def main(role: Role, home: Home) -> int:
    """Hold the lock, run the supervisor as a child, and leave nothing behind. Returns the supervisor's exit code.

    Standard input is the line to whoever asked (see supervisor), standard output takes the events (see events).
    """
    home.create()
    if not _take_lock(home):
        print(json.dumps({"event": "busy"}), flush=True)
        return 0
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    supervisor = _fork_supervisor(role, home)
    _close_standard_streams()
    code = _wait_for(supervisor)
    sweep()
    if role == "servers":
        home.purge()
    return code


def _take_lock(home: Home) -> bool:
    """Several tries within a moment: `Home.is_held` of another command may hold the lock for microseconds."""
    for _ in range(10):
        if (lock := home.try_lock()) is not None:
            home.sign(lock)
            return True
        time.sleep(POLL_S)
    return False


def _fork_supervisor(role: Role, home: Home) -> int:
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        _forward_stop(pid)
        return pid
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != keeper:  # it died before the line above: nobody would tell us
        os._exit(1)
    from stack.supervisor import supervisor  # after the fork, so that the keeper stays small

    os._exit(supervisor.main(role, home))


def _forward_stop(supervisor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(supervisor, signal.SIGTERM))


def _close_standard_streams() -> None:
    """Let the one who asked see the end of the events when the supervisor ends them, not when the keeper ends."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


def _wait_for(supervisor: int) -> int:
    """Reap everything that ends until the supervisor has; its exit code (128 + signal when it was killed)."""
    while True:
        pid, status = os.wait()
        if pid == supervisor:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def sweep() -> None:
    """End everything below this process: politely first, SIGKILL for what is left after PATIENCE_S."""
    for child in proc.descendants(os.getpid()):
        if child.parent == os.getpid():
            _signal(child.pid, _polite_signal(child.name))
    deadline = time.monotonic() + PATIENCE_S
    while left := proc.descendants(os.getpid()):
        if time.monotonic() > deadline:
            for process in left:
                _signal(process.pid, signal.SIGKILL)
        _reap()
        time.sleep(POLL_S)
    _reap()


def _polite_signal(name: str) -> signal.Signals:
    # PostgreSQL's immediate shutdown takes its backends along and frees its shared memory, SIGKILL does neither;
    # SIGTERM would wait for its clients.
    return signal.SIGQUIT if name == "postgres" else signal.SIGTERM


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], Home(Path(sys.argv[2]))))  # type: ignore[arg-type]
    except (HeadraceError, OSError) as error:
        failure = disk_full(error, Path(sys.argv[2])) or error
        if not isinstance(failure, HeadraceError):
            raise
        print(json.dumps({"event": "failed", **failure.to_dict()}), flush=True)
        sys.exit(1)
