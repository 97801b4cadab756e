"""Runs services behind a socket, in this process or in their own."""

import asyncio
import itertools
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import httpx
from starlette.types import ASGIApp

from tests.support.services.forked import SERVICES as FORKED
from tests.support.services.forked import ForkedProcess, start_forked
from tests.support.time.conditions import eventually
from web.serving import server

ROOT = Path(__file__).parents[3]
# Half a second on a quiet machine. A start is no promise, and four tests may start all services at once.
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0

# pytest-xdist sets it to gw0, gw1, ... in each process of a parallel run.
PARALLEL = "PYTEST_XDIST_WORKER"
# Each process of a parallel run has a range of ports. Each starts at a random port in it, so that two runs on one
# machine hardly ever try the same one.
_FIRST_PORT, _PORTS, _RANGES = 22_000, 1_000, 10
_range = int(os.environ.get(PARALLEL, "gw0").removeprefix("gw")) % _RANGES
_start = random.randrange(_PORTS)
_ports = (_FIRST_PORT + _range * _PORTS + (_start + number) % _PORTS for number in itertools.count())


@dataclass(frozen=True)
class Service:
    """A service in a process of its own."""

    name: str
    url: str
    health_url: str
    """The URL of its health listener. A worker has only one URL."""
    process: asyncio.subprocess.Process | ForkedProcess
    _log: IO[bytes]

    def log(self) -> str:
        """Its log so far."""
        return os.pread(self._log.fileno(), 10_000_000, 0).decode()

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped by SIGSTOP."""
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    async def metric(self, sample: str) -> float:
        """A sample's value in /metrics, named with its labels; 0 if it does not exist."""
        return (await self.metrics()).get(sample, 0.0)

    async def metrics(self) -> dict[str, float]:
        """All samples of /metrics."""
        async with httpx.AsyncClient(timeout=15, verify=False) as client:
            lines = (await client.get(f"{self.url}/metrics")).text.splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {sample: float(value) for sample, _, value in samples}

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end, see `ended`. A service that is stopping is killed by a second SIGTERM."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the end. Returns the exit code, negative for a signal. Raises TimeoutError."""
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            return await self.process.wait()


@asynccontextmanager
async def service_process(
    name: str,
    environment: Mapping[str, str],
    *,
    ready: str | None = "/readyz",
    port: int | None = None,
    program: str | None = None,
    tree: Path = ROOT,
) -> AsyncIterator[Service]:
    """Run `python -m name` on `port` or a free one. Yields once `ready` answers 200. Kills it at the end if need be.

    `environment`: added to this process's; the `environment` fixture has everything required. With ready="/livez"
    the service need not be connected; with None nothing is waited for. `program`: a module to run instead, with the
    service's name as its argument. `tree`: the checkout whose service it is, as one of another release.
    """
    ports = free_ports(name) | ({f"{name.upper()}_PORT": str(port)} if port else {})
    port = int(ports[f"{name.upper()}_PORT"])
    health_port = int(ports.get(f"{name.upper()}_HEALTH_PORT", port))
    variables = {**os.environ, **environment, **ports}
    with TemporaryFile() as log:
        process = await _started(name, variables, log.fileno(), program, tree)
        service = Service(name, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{health_port}", process, log)
        try:
            if ready is not None:
                await _wait_until(service.url + ready, service)
            yield service
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _started(
    name: str, variables: Mapping[str, str], log: int, program: str | None, tree: Path
) -> asyncio.subprocess.Process | ForkedProcess:
    if program is None and name in FORKED and tree == ROOT:
        return start_forked(name, variables, log)
    command = (sys.executable, "-m", *([program] if program else []), name)
    return await asyncio.create_subprocess_exec(*command, cwd=tree, env=variables, stdout=log, stderr=log)


@asynccontextmanager
async def running(app: ASGIApp, *, ready: str = "/readyz", max_connections: int = 256) -> AsyncIterator[str]:
    """Run `app` with its lifespan in this process, on a free port. Yields its URL."""
    port, stop = free_port(), asyncio.Event()
    serving = asyncio.create_task(
        server.serve(
            app,
            "127.0.0.1",
            port,
            stop,
            grace_s=5,
            max_connections=max_connections,
            hosts=getattr(getattr(app, "state", None), "hosts", None),
        )
    )
    url = f"http://127.0.0.1:{port}"
    try:
        await _wait_until(url + ready, serving)
        yield url
    finally:
        stop.set()
        await serving


def free_ports(name: str) -> dict[str, str]:
    """The variables that give a service ports that nobody listens on: its own, and that of an API's health listener."""
    own, health = f"{name.upper()}_PORT", f"{name.upper()}_HEALTH_PORT"
    return {variable: str(free_port()) for variable in ((own, health) if name.endswith("_api") else (own,))}


def free_port() -> int:
    """A free port, another one each time.

    It is below 32768, where the kernel picks ports of outgoing connections: one of those sometimes took the port first.
    """
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the ports have an end")


async def _wait_until(url: str, server_of_it: "Service | asyncio.Task[None]") -> None:
    async with httpx.AsyncClient(timeout=2, verify=False) as client:

        async def is_ready() -> bool:
            _raise_if_ended(server_of_it)
            try:
                return (await client.get(url)).status_code == 200
            except httpx.TransportError:
                return False

        try:
            await eventually(is_ready, _START_TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{url} is not 200: {error}\n{_log_of(server_of_it)}") from None


def _raise_if_ended(server_of_it: "Service | asyncio.Task[None]") -> None:
    if isinstance(server_of_it, Service):
        code = server_of_it.process.returncode
        if code is not None:
            raise RuntimeError(f"{server_of_it.name} ended with {code}:\n{server_of_it.log()}")
    elif server_of_it.done():
        server_of_it.result()


def _log_of(server_of_it: "Service | asyncio.Task[None]") -> str:
    return server_of_it.log()[-4000:] if isinstance(server_of_it, Service) else ""
