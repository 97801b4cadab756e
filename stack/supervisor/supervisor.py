"""The process that starts a stack, restarts what dies, and stops it gracefully. A child of the keeper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import traceback

from stack.errors import HeadraceError, disk_full
from stack.home import state as states
from stack.home.credentials import load_or_create
from stack.home.directory import Home
from stack.home.environment import external_urls, wanted_ports
from stack.home.state import Phase, StackState
from stack.process.events import Events
from stack.process.logfile import keep_bounded, open_log
from stack.process.ports import Ports
from stack.process.proc import identify
from stack.servers.rabbitmq import UI_VARIABLE, Use
from stack.servers.servers import Servers
from stack.services.services import Services
from stack.supervisor.role import Role

STDIN = 0

log = logging.getLogger(__name__)


def main(role: Role, home: Home) -> int:
    """Run a stack until SIGTERM, SIGINT, or the end of standard input without a `detach` line before it.

    Returns 0 after a graceful stop. Returns 1 if the start failed; what had started is stopped again.
    """
    _log_to(home)
    events = Events()
    try:
        codes = asyncio.run(Supervisor(role, home, events).run())
        events.emit("stopped", services=codes)
        return 0
    except HeadraceError as error:
        events.emit("failed", **error.to_dict())
    except Exception as error:
        log.error("%s", traceback.format_exc())
        failure = disk_full(error, home.path) or HeadraceError(
            f"{type(error).__name__}: {error}", log=str(home.log("supervisor"))
        )
        events.emit("failed", **failure.to_dict())
    return 1


def _log_to(home: Home) -> None:
    with open_log(home.log("supervisor")) as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Until a server is ready, its probe fails every few milliseconds. That is not worth a log line.
    for name in ("aiormq", "aio_pika", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Supervisor:
    def __init__(self, role: Role, home: Home, events: Events) -> None:
        self.home, self.events, self.role = home, events, role
        self._supervisor, self._keeper = identify(os.getpid()), identify(os.getppid())
        self._stop = asyncio.Event()
        self._phase: Phase = "starting"
        former = states.load(home)
        self._ports = Ports(former.ports)
        self._credentials = load_or_create(home.credentials)
        # Tests get private servers: those that the environment names may hold somebody's data.
        external = external_urls() if role == "up" else {}
        self._servers = Servers(home, events, self._ports, self._credentials, external, self._save, _broker_use(role))
        wanted = wanted_ports() if role == "up" else {}
        self._services = Services(home, events, self._ports, wanted, self._credentials, self._save, former.parts)

    async def run(self) -> dict[str, int | None]:
        """Run as `main` says. Returns the services' exit codes. Raises HeadraceError if the start fails."""
        self._listen()
        self._write_state()
        bounding = asyncio.create_task(keep_bounded(self.home.logs))
        start = asyncio.create_task(self._start())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([start, stop], return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                await start
                await stop
        finally:
            await _cancel(start)
            await self._stop_all()
            await _cancel(bounding)
        return self._services.exit_codes()

    async def _start(self) -> None:
        await self._servers.start()
        if self.role == "up":
            parts = self._servers.parts
            await self._services.start({name: part.url for name, part in parts.items()}, self._servers.external)
        self._enter("ready")
        self.events.emit("ready")

    async def _stop_all(self) -> None:
        self._enter("stopping")
        await self._services.stop()
        await self._servers.stop()
        self._enter("down")

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._save()

    def _save(self) -> None:
        """Write the state file. A full disk must not stop services from running, restarting or stopping."""
        try:
            self._write_state()
        except OSError as error:
            log.error("cannot write the state file: %s", error)

    def _write_state(self) -> None:
        self._servers.refresh()
        self._services.refresh()
        StackState(
            phase=self._phase,
            supervisor=self._supervisor,
            keeper=self._keeper,
            ports=self._ports.remembered,
            parts={**self._servers.parts, **self._services.parts},
            management_url=self._servers.management_url,
            operator=self._services.operator,
        ).save(self.home)

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        self._line = b""
        os.set_blocking(STDIN, False)
        loop.add_reader(STDIN, self._hear)

    def _hear(self) -> None:
        """Read standard input. `detach`: run on alone. Its end without that word: the command died, so stop."""
        heard = os.read(STDIN, 64)
        self._line += heard
        if b"detach\n" in self._line:
            asyncio.get_running_loop().remove_reader(STDIN)
        elif not heard:
            asyncio.get_running_loop().remove_reader(STDIN)
            self._stop.set()


def _broker_use(role: Role) -> Use:
    if role == "servers":
        return "test"
    return "ui" if os.environ.get(UI_VARIABLE) else "plain"


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, HeadraceError, Exception):
        await task
