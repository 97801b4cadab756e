"""Deploys a contender: its own database, vhost and empty Redis, and its processes.

The servers are private instances, the same for all contenders of one run. What a deployment made is gone when its block
is left, however it is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders.contender import Contender, Part
from benchmarks.processes import Parts
from benchmarks.run.accounting import Answers, Connection
from benchmarks.run.older import read_as_ours
from benchmarks.run.servers import Servers, make_database, make_vhost, template_of
from stack.home.directory import ROOT
from stack.process.http import get
from stack.process.identity import wrap
from stack.process.ports import LOOPBACK, Ports

ORDER_ID_KEY = "6b" * 32
# Below the ports that the kernel gives to outgoing connections, so that none of those takes one.
FIRST_PORT = 21_000
# Settings of this shell's that would make a contender another one than its name says.
FOREIGN = ("INGEST_API_", "PERSIST_WORKER_", "PRODUCT_CONSUMER_", "PRODUCT_API_", "API_KEYS_")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.05
_LOG_TAIL = 600


class ContenderFailed(Exception):
    """A part did not start, or died. The text says which part, and quotes the end of its log."""


@dataclass
class Running:
    """One process of a contender."""

    part: Part
    process: asyncio.subprocess.Process
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def check(self) -> None:
        """Raises ContenderFailed when it has ended."""
        if (code := self.process.returncode) is not None:
            raise ContenderFailed(f"{self.part.name} ended with {code}: {self.log_tail()}")

    def log_tail(self) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        # Where the repository lies is nobody's business who reads the results.
        return " ".join(text.replace(f"{ROOT}/", "")[-_LOG_TAIL:].split())


@dataclass
class Deployment:
    """A contender, running. `directory` is for files of this deployment alone."""

    contender: Contender
    environment: dict[str, str]
    directory: Path
    connection: Connection
    """To its database."""
    parts: Parts
    running: list[Running] = field(default_factory=list)
    answers: Answers = field(default_factory=Answers)
    _ports: Ports = field(default_factory=Ports)

    @property
    def url(self) -> str:
        """Of the part that takes the requests."""
        return self.running[0].url

    async def start(self, parts: tuple[Part, ...]) -> None:
        """Start processes and wait until all are ready. Raises ContenderFailed."""
        started = [await self._spawn(part) for part in parts]
        async with asyncio.TaskGroup() as group:
            for running in started:
                group.create_task(_until_ready(running))

    def check(self) -> None:
        """Raises ContenderFailed when a part has died."""
        for running in self.running:
            running.check()

    async def stop(self) -> None:
        """SIGTERM to all at once, SIGKILL to the groups of those that stay; returns when nothing is left."""
        for running in self.running:
            _signal(running.process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                for running in self.running:
                    await running.process.wait()
        for running in self.running:
            _signal_group(running.process.pid)
            await running.process.wait()

    async def _spawn(self, part: Part) -> Running:
        port = self._ports.choose(f"{part.name} {len(self.running)}", FIRST_PORT)
        variables = {**_own_environment(), **self.environment, **part.environment}
        if part.port_variable:
            variables[part.port_variable] = str(port)
            if part.port_variable in ("INGEST_API_PORT", "PRODUCT_API_PORT"):  # whose probes nobody asks: any free port
                variables[part.port_variable.replace("_PORT", "_HEALTH_PORT")] = "0"
        log = self.directory / f"{part.name}-{len(self.running)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *wrap([sys.executable, "-m", part.module, *part.arguments], None, signal.SIGKILL),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.contender.checkout or ROOT,
                env=variables,
                start_new_session=True,
            )
        running = Running(part, process, port, log)
        self.running.append(running)
        self.parts.add(part.name, process.pid)
        return running


@contextlib.asynccontextmanager
async def deployed(contender: Contender, servers: Servers, *, start: bool = True) -> AsyncIterator[Deployment]:
    """`contender`, ready for requests. `start` False: its processes are the caller's to start.

    Raises ContenderFailed when it does not start; anything that the servers refuse is raised as it is.
    """
    name = f"bench_{secrets.token_hex(4)}"
    async with contextlib.AsyncExitStack() as stack:
        template = await template_of(servers, contender.checkout)
        database_url = await stack.enter_async_context(make_database(servers, name, template))
        amqp_url = stack.enter_context(make_vhost(servers, name))
        await servers.empty_redis()
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-")))
        connection = await servers.connect(database_url)
        stack.push_async_callback(connection.close, timeout=STOP_TIMEOUT_S)
        if contender.checkout:
            await read_as_ours(connection)
        environment = {
            "DATABASE_URL": database_url,
            "AMQP_URL": amqp_url,
            "REDIS_URL": servers.redis_url,
            "ORDER_ID_KEY": ORDER_ID_KEY,
            "LOG_LEVEL": "warning",
        }
        deployment = Deployment(contender, environment, directory, connection, servers.watched())
        stack.push_async_callback(deployment.stop)
        if start:
            await _or_failed(deployment.start(contender.parts))
        yield deployment


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


async def _or_failed(starting: Coroutine[None, None, None]) -> None:
    """What a task group raises, as the one error that it was."""
    try:
        await starting
    except* ContenderFailed as group:
        raise ContenderFailed(str(group.exceptions[0])) from None


async def _until_ready(running: Running) -> None:
    """Raises ContenderFailed."""
    if running.part.ready is None:
        return
    url = running.url + running.part.ready
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await asyncio.to_thread(_answers_200, url):
                running.check()
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        text = f"{running.part.name} was not ready within {START_TIMEOUT_S:.0f} s: {running.log_tail()}"
        raise ContenderFailed(text) from None


def _answers_200(url: str) -> bool:
    try:
        return get(url, 2)[0] == 200
    except OSError:
        return False


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _signal_group(pid: int) -> None:
    """Kill what a part has left behind: each is the leader of a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
