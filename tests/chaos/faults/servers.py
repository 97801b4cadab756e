"""PostgreSQL, RabbitMQ and Redis of this suite: a scenario may kill, stop and start them.

They run under the stack's own supervision: a killed server is started again after half a second, a stopped one stays
stopped until a test starts it.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from stack.home.credentials import load_or_create
from stack.home.directory import Home
from stack.home.state import SERVERS
from stack.process.child import Process
from stack.process.events import Events
from stack.process.identity import give, identity_for, wrap
from stack.process.ports import Ports
from stack.servers import binaries
from stack.servers.servers import Servers as StackServers
from tests.conftest import Servers
from tests.support.time.conditions import eventually

# Longer than RabbitMQ needs to start on a busy machine.
_START_TIMEOUT_S = 90


class _Quiet(Events):
    """Drops the events that the stack's servers send to a supervisor: there is none."""

    def emit(self, event: str, **fields: object) -> None:
        pass


class OwnServers:
    def __init__(self, home: Home) -> None:
        self._home = home
        ports, credentials = Ports(), load_or_create(home.credentials)
        self._servers = StackServers(home, _Quiet(), ports, credentials, {}, lambda: None, "test")

    @property
    def urls(self) -> Servers:
        parts = self._servers.parts
        database_url = parts["postgres"].url.rpartition("/")[0] + "/postgres"
        return Servers(database_url, parts["rabbitmq"].url, self._servers.management_url, parts["redis"].url)

    @property
    def logs(self) -> dict[str, Path]:
        return {name: self._home.log(name) for name in SERVERS}

    async def kill(self, name: str) -> None:
        """kill -9, and wait until the server is ready again."""
        process = self._servers.process(name)
        assert process.pid is not None
        restarts = process.restarts
        os.kill(process.pid, signal.SIGKILL)
        await eventually(lambda: process.restarts > restarts, _START_TIMEOUT_S)
        await _until_ready(process)

    async def stop(self, name: str, number: signal.Signals) -> None:
        """Stop a server with this signal. It stays stopped."""
        process = self._servers.process(name)
        process.spec = replace(process.spec, stop_signal=number)
        await process.stop()

    async def start(self, name: str) -> None:
        """Start a stopped server, and wait until it is ready."""
        await self._servers.process(name).start()

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """SIGSTOP a server and its children for the block: connections stay open, and nothing answers."""
        pid = self._servers.process(name).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # first, so that it starts no more children
        processes = [pid, *_descendants(pid)]
        try:
            for it in processes[1:]:
                os.kill(it, signal.SIGSTOP)
            yield
        finally:
            for it in reversed(processes):
                with suppress(ProcessLookupError):
                    os.kill(it, signal.SIGCONT)

    async def restore(self) -> None:
        """Start every server that a scenario stopped, and wait until all are ready."""
        for name in SERVERS:
            process = self._servers.process(name)
            if process.state == "stopped":
                await process.start()
            await _until_ready(process)

    def process(self, name: str) -> Process:
        return self._servers.process(name)

    async def rabbitmqctl(self, *arguments: str) -> None:
        """Run rabbitmqctl. Only where nothing else works, because it costs seconds of CPU."""
        node = self._servers.process("rabbitmq").spec
        program = str(Path(node.argv[0]).with_name("rabbitmqctl"))
        control = await asyncio.create_subprocess_exec(
            *wrap([program, *arguments], node.identity),
            env=node.env,
            cwd=node.cwd,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await control.communicate()
        assert control.returncode == 0, output.decode()

    @contextmanager
    def writable_directory(self, name: str) -> Iterator[str]:
        """A directory beside PostgreSQL's data that it may write."""
        directory = (self._home.path / "postgres").resolve() / name
        directory.mkdir(mode=0o700)
        give(directory, identity_for("postgres"))
        yield str(directory)
        directory.rmdir()

    async def _start_all(self) -> None:
        missing = [name for name in SERVERS if binaries.find(name) is None]
        assert not missing, f"not installed: {missing}. Run the tests with ./headrace test, which installs them."
        await self._servers.start()

    async def _stop_all(self) -> None:
        await self._servers.stop()


def _descendants(pid: int) -> list[int]:
    """All descendants of a process, by the fourth field of /proc/PID/stat."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(file.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found, look_at = [], [pid]
    while look_at:
        below = children.get(look_at.pop(), [])
        found += below
        look_at += below
    return found


async def _until_ready(process: Process) -> None:
    await eventually(lambda: process.state == "ready", _START_TIMEOUT_S)


@asynccontextmanager
async def own_servers(home: Home) -> AsyncIterator[OwnServers]:
    """Run the servers for the block. Deletes them and their data at the end.

    `home`: the state directory of a test run, see stack.home.directory. The next run removes what a killed one left.
    """
    for name in ("aiormq", "aio_pika"):  # probes fail until the servers are ready
        logging.getLogger(name).setLevel(logging.CRITICAL)
    home.create()
    lock = home.try_lock()
    assert lock is not None
    servers = OwnServers(home)
    try:
        await servers._start_all()
        yield servers
    finally:
        await servers._stop_all()
        home.purge()
        os.close(lock)
