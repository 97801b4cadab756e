"""Starts a keeper with its supervisor, and reads their events. The writing end is stack.process.events."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.errors import HeadraceError
from stack.home import state as states
from stack.home.directory import ROOT, Home
from stack.process.logfile import open_log
from stack.supervisor.role import Role

Event = dict[str, Any]


class Busy(Exception):
    """Another process starts, runs or stops a stack on this state directory."""


@dataclass
class Launched:
    """A stack that runs while this object's `keeper.stdin` is open, or after `detach` on its own."""

    home: Home
    keeper: subprocess.Popen[bytes]

    def events(self) -> Iterator[Event]:
        """The supervisor's events, as they come. Ends with the supervisor.

        Raises Busy, and HeadraceError if the start failed or the supervisor died.
        """
        assert self.keeper.stdout
        for line in self.keeper.stdout:
            event: Event = json.loads(line)
            if event["event"] == "busy":
                raise Busy
            if event["event"] == "failed":
                self.keeper.wait()
                raise HeadraceError(**{key: event[key] for key in ("what", "cause", "fix", "log")})
            yield event
            if event["event"] == "stopped":
                return
        raise HeadraceError(
            "the supervisor died",
            f"it was killed, or it has a bug (exit code {self.keeper.wait()})",
            "./headrace up",
            str(self.home.log("supervisor")),
        )

    def detach(self) -> None:
        """Let the stack run on after this process ends."""
        assert self.keeper.stdin
        self.keeper.stdin.write(b"detach\n")
        self.keeper.stdin.close()

    def stop(self) -> None:
        """Ask the stack to stop gracefully. Returns at once."""
        self.keeper.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Stop the stack, and wait until none of its processes is left."""
        assert self.keeper.stdin
        assert self.keeper.stdout
        with contextlib.suppress(OSError):
            self.keeper.stdin.close()
        self.keeper.wait()
        self.keeper.stdout.close()


def launch(role: Role, home: Home) -> Launched:
    """Start a keeper. It gets a session of its own, so a terminal's Ctrl-C reaches only us. Raises HeadraceError."""
    home.create()
    with open_log(home.log("keeper")) as errors:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "stack.supervisor.keeper", role, str(home.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            start_new_session=True,
        )
    return Launched(home, keeper)


@dataclass(frozen=True)
class PrivateServers:
    """URLs of servers that belong to one test run. `database_url`: a superuser's, on the database postgres."""

    database_url: str
    amqp_url: str
    rabbitmq_api: str
    redis_url: str

    def environment(self) -> dict[str, str]:
        return {
            "HEADRACE_TEST_DATABASE_URL": self.database_url,
            "HEADRACE_TEST_AMQP_URL": self.amqp_url,
            "HEADRACE_TEST_RABBITMQ_API": self.rabbitmq_api,
            "HEADRACE_TEST_REDIS_URL": self.redis_url,
        }


def read_private_servers(home: Home) -> PrivateServers:
    state = states.load(home)
    return PrivateServers(
        database_url=state.parts["postgres"].url.rpartition("/")[0] + "/postgres",
        amqp_url=state.parts["rabbitmq"].url,
        rabbitmq_api=state.management_url,
        redis_url=state.parts["redis"].url,
    )


@contextlib.contextmanager
def private_servers(directory: Path | None = None) -> Iterator[PrivateServers]:
    """Run PostgreSQL, RabbitMQ and Redis for the block. Removes them afterwards, even if this process is killed.

    `directory`: where their data lives; created if missing, deleted at the end. Default: a new temporary directory.
    Raises HeadraceError if a server does not start.
    """
    launched = launch("servers", Home(directory or Path(tempfile.mkdtemp(prefix="headrace-"))))
    try:
        wait_ready(launched)
        yield read_private_servers(launched.home)
    finally:
        launched.close()


def wait_ready(launched: Launched) -> None:
    """Wait until all servers are ready. Raises as Launched.events does."""
    for event in launched.events():
        if event["event"] == "ready":
            return
