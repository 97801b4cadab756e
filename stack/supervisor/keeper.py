"""The supervisor's parent, which leaves no orphans. `python -m stack.supervisor.keeper ROLE HOME`.

A supervisor that is killed cannot stop its children. Process groups do not hold them either: PostgreSQL's backends and
RabbitMQ's helpers make groups and sessions of their own, and epmd becomes a daemon. So the keeper is a child subreaper
(prctl(2)): a descendant that loses its parent becomes the keeper's child.

- The supervisor ends, in any way: the keeper ends all processes that are left.
- The keeper is killed: the kernel signals the supervisor (PR_SET_PDEATHSIG), which stops everything gracefully.
- Both are killed at once: the kernel signals each server and service (see identity.wrap).

The keeper holds the lock of the state directory until it ends: a free lock means that no process is left.
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
# From the stop signal to SIGKILL. Used only after a crash of the supervisor: every part survives a kill.
PATIENCE_S = 2.0
POLL_S = 0.02


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def main(role: Role, home: Home) -> int:
    """Hold the lock, run the supervisor as a child, and end all processes after it. Returns the supervisor's exit code.

    Standard input connects the supervisor to the command that started it. Standard output carries the events.
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
    """Lock the state directory. Tries several times: `Home.is_held` of another command locks it for microseconds."""
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
    if os.getppid() != keeper:  # the keeper died before prctl, so no signal will come
        os._exit(1)
    from stack.supervisor import supervisor  # after the fork, so that the keeper stays small

    os._exit(supervisor.main(role, home))


def _forward_stop(supervisor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(supervisor, signal.SIGTERM))


def _close_standard_streams() -> None:
    """Let the command see the end of the events when the supervisor ends, not when the keeper does."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


def _wait_for(supervisor: int) -> int:
    """Reap children until the supervisor ends. Returns its exit code: 128 + signal if it was killed."""
    while True:
        pid, status = os.wait()
        if pid == supervisor:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def sweep() -> None:
    """End all descendants: first with their stop signal, after PATIENCE_S with SIGKILL."""
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
    # SIGQUIT is PostgreSQL's immediate shutdown: it ends the backends and frees shared memory, which SIGKILL does not.
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
