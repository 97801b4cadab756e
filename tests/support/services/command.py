"""Runs `./headrace` on a state directory of its own, and finds the processes that use it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from stack.home.directory import ROOT, Home

SERVICES = {"ingest_api", "persist_worker", "product_consumer", "product_api", "event_relay"}
SERVERS = {"postgres", "rabbitmq", "redis"}
# Variables of the stack and of servers must not leak in from the run that started these tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.endswith(("_URL", "_PORT"))}


class Stack:
    """The command with its own state directory. `root`: the checkout that it belongs to."""

    def __init__(self, directory: Path, root: Path = ROOT) -> None:
        self.home, self.root = Home(directory), root

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "headrace", *arguments],
            cwd="/",
            env={**ENVIRONMENT, "HEADRACE_HOME": str(self.home.path), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run the command. Returns its output; asserts its exit code."""
        return self.finish(self.start(*arguments, **environment), code)

    def finish(self, command: subprocess.Popen[str], code: int = 0) -> str:
        output, _ = command.communicate(timeout=90)
        assert command.returncode == code, output
        return output

    def up(self) -> str:
        return self.run("up", "-d")

    def status(self) -> dict[str, Any]:
        with self.start("status", "--json") as command:
            status: dict[str, Any] = json.loads(command.communicate(timeout=30)[0])
            return status

    def processes(self) -> list[str]:
        """All processes that name this directory in their arguments, environment or working directory.

        Server data may lie in the fallback: pytest's temporary directories are closed to other users.
        """
        marks = [str(self.home.path).encode(), str(self.home.fallback).encode()]
        found = {entry.name: _traces(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        return [
            f"{pid} {traces[:60]!r}"
            for pid, traces in found.items()
            if any(mark in traces for mark in marks) and int(pid) != os.getpid()
        ]


def _traces(process: Path) -> bytes:
    try:
        read = [(process / name).read_bytes() for name in ("cmdline", "environ")]
        return b" ".join([*read, bytes((process / "cwd").readlink())])
    except OSError:
        return b""
