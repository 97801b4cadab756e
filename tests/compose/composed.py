"""The stack in containers, as users run it: `./headrace up --docker`, and direct access to Docker."""

import asyncio
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.containers import containers
from stack.home.directory import ROOT, Home
from tests.support.time.conditions import eventually

_READY_S = 120


@dataclass(frozen=True)
class ComposeStack:
    """A stack in containers. `environment`: for its commands; COMPOSE_PROJECT_NAME keeps it apart from other stacks."""

    environment: Mapping[str, str]

    @property
    def project(self) -> str:
        return self.environment["COMPOSE_PROJECT_NAME"]

    async def headrace(self, *arguments: str, code: int = 0) -> str:
        """Run ./headrace. Returns its output; asserts its exit code."""
        return await self._run([str(ROOT / "headrace"), *arguments], code)

    async def compose(self, *arguments: str, code: int = 0) -> str:
        return await self._run(containers.compose(*arguments, home=Home(Path(self.environment["HEADRACE_HOME"]))), code)

    async def docker(self, *arguments: str) -> str:
        return await self._run(["docker", *arguments], 0)

    async def _run(self, command: list[str], code: int) -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **self.environment},
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = (text.decode() for text in await process.communicate())
        assert process.returncode == code, f"{' '.join(command)}: {process.returncode}\n{out}\n{err}"
        return out if code == 0 else out + err

    async def url(self, service: str, inner_port: int) -> str:
        """The URL of a service for clients."""
        return f"http://{(await self.compose('port', service, str(inner_port))).strip()}"

    async def all(self) -> list[dict[str, Any]]:
        """`docker inspect` of each container, ended ones included."""
        ids = (await self.compose("ps", "--all", "--quiet")).split()
        found: list[dict[str, Any]] = json.loads(await self.docker("inspect", *ids)) if ids else []
        return found

    async def of(self, service: str) -> list[dict[str, Any]]:
        """The running containers of a service."""
        return [it for it in await self.all() if service_of(it) == service and it["State"]["Running"]]

    async def scale(self, **counts: int) -> None:
        """Scale services, and wait until exactly this many are ready."""
        scales = [word for name, count in counts.items() for word in ("--scale", f"{name}={count}")]
        await self.compose("up", "--detach", "--no-recreate", "--no-deps", *scales, *counts)
        for name, count in counts.items():
            await self.until_ready(name, count)

    async def until_ready(self, service: str, count: int) -> None:
        async def are_ready() -> bool:
            found = await self.of(service)
            return len(found) == count and all(it["State"]["Health"]["Status"] == "healthy" for it in found)

        await eventually(are_ready, _READY_S, 0.5)

    async def crash(self, container: Mapping[str, Any]) -> None:
        """Kill -9 the container's process, as the kernel would. (After `docker kill`, Docker restarts nothing.)"""
        os.kill(container["State"]["Pid"], signal.SIGKILL)
        name = container["Name"].lstrip("/")

        async def is_back() -> bool:
            now = json.loads(await self.docker("inspect", name))[0]
            is_another = now["RestartCount"] > container["RestartCount"]
            return bool(is_another and now["State"].get("Health", {}).get("Status") == "healthy")

        await eventually(is_back, _READY_S, 0.5)

    async def inside(self, container: Mapping[str, Any], python: str) -> str:
        """Run a line of Python in one of our containers. Returns its output."""
        return await self.docker("exec", container["Id"], "python", "-c", python)


def service_of(container: Mapping[str, Any]) -> str:
    name: str = container["Config"]["Labels"]["com.docker.compose.service"]
    return name


def compose_directory() -> Path:
    """Where Compose lies that our development packages bring. Not the script of its name in .venv/bin: that one ends
    with 0, however Compose has ended.
    """
    found = importlib.util.find_spec("compose")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def make_images() -> None:
    """Start an engine if needed, and make the images of docker-compose.yml. Raises AssertionError."""
    done = subprocess.run(
        ["sh", str(Path(__file__).parent / "images" / "make.sh"), *IMAGES],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"no containers on this machine: {done.stdout[-2000:]}"


def is_engine_running() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def stop_engine() -> None:
    """Stop the engine that `make_images` started."""
    pid = int(Path("/var/run/docker.pid").read_text())
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        ended, _, _ = select.select([process], [], [], 30)
    finally:
        os.close(process)
    assert ended, "dockerd does not stop"


IMAGES = ("python:3.13-slim", "postgres:17", "rabbitmq:4-management", "redis:8", "haproxy:3.0")
