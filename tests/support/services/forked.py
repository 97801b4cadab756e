"""Processes of the services that start in milliseconds: forked from one that has imported everything already.

`python -m ingest_api` spends 0.9 s of CPU on its imports. The tests start a service a thousand times, so half of all
their time went there. A forked process differs from such a one in that alone: it is a process of its own, with its own
environment, files, signals and exit status.
"""

import asyncio
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SERVICES = ("ingest_api", "persist_worker", "product_consumer", "product_api", "event_relay")
_ROOT = Path(__file__).parents[3]
_MOST_BYTES = 1 << 20


class ForkedProcess:
    """A service, with what `asyncio.subprocess.Process` has of a child process."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid, self._status = pid, status
        self.returncode: int | None = None
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._loop.add_reader(status, self._on_end)

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError when it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Its exit status; that of a signal is negative."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def _on_end(self) -> None:
        self._loop.remove_reader(self._status)
        said = os.read(self._status, 16)
        os.close(self._status)
        self.returncode = int(said) if said else -signal.SIGKILL  # nothing: the parent died, and took it along
        self._ended.set()


class _Parent:
    """The process that has imported the services. It ends, with its children, when this one does."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=_ROOT, pass_fds=(theirs.fileno(),), process_group=0)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def start(self, name: str, environment: Mapping[str, str], log: int) -> ForkedProcess:
        """`name` with that environment and no other. The first time it waits for the imports."""
        ours, theirs = os.pipe()
        request = json.dumps({"name": name, "environment": dict(environment)}).encode()
        socket.send_fds(self._line, [request], [log, theirs])
        os.close(theirs)
        return ForkedProcess(int(self._line.recv(16)), ours)


_parent: _Parent | None = None


def start_forked(name: str, environment: Mapping[str, str], log: int) -> ForkedProcess:
    """`python -m name` in all but its start. `log`: the file of its output and errors."""
    global _parent
    if _parent is None or not _parent.lives:
        _parent = _Parent()
    return _parent.start(name, environment, log)


# ── in the process that forks


def _serve(line: socket.socket) -> None:
    """Fork whatever is asked for, and tell how it ended. Returns in the forked process, which is then to run."""
    children: dict[int, int] = {}
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        readable, _, _ = select.select([line.fileno(), ended], [], [])
        if ended in readable:
            os.read(ended, 4096)
            _tell_who_has_ended(children)
        if line.fileno() in readable:
            request, files, _, _ = socket.recv_fds(line, _MOST_BYTES, 2)
            if not request:
                _kill(children)
                os._exit(0)
            log, status = files
            if (pid := os.fork()) == 0:
                _become(json.loads(request), log, (line.fileno(), ended, wake, status, *children.values()))
                return
            os.close(log)
            children[pid] = status
            line.send(str(pid).encode())


def _tell_who_has_ended(children: dict[int, int]) -> None:
    for pid, status in list(children.items()):
        found, how = os.waitpid(pid, os.WNOHANG)
        if found:
            os.write(status, str(os.waitstatus_to_exitcode(how)).encode())
            os.close(status)
            del children[pid]


def _kill(children: dict[int, int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _become(request: dict[str, object], log: int, not_mine: tuple[int, ...]) -> None:
    """Make this process one that `python -m name` would be before it runs the module."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for file in (log, *not_mine):
        os.close(file)
    environment = request["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(request["name"])]


def main() -> None:
    # A terminal sends Ctrl-C to pytest too, and pytest ends the services.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = socket.socket(fileno=int(sys.argv[1]))
    for name in SERVICES:
        importlib.import_module(f"{name}.__main__")
        del sys.modules[f"{name}.__main__"]  # the forked process runs it, as `python -m` does
    _serve(line)
    line.detach()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
