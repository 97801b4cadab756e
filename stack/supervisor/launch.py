"""Starts a keeper with its supervisor, and listens to it: the other end of `events`."""

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
    """A stack that lives as long as this object's `keeper.stdin` is open, or until `detach`."""

    home: Home
    keeper: subprocess.Popen[bytes]

    def events(self) -> Iterator[Event]:
        """What the supervisor reports, as it comes; ends when the supervisor does.

        Raises Busy, HeadraceError for a failed start, or when it ended without a word.
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
            "the supervisor ended in the middle of its work",
            f"it was killed, or it has a bug (exit code {self.keeper.wait()})",
            "./headrace up",
            str(self.home.log("supervisor")),
        )

    def detach(self) -> None:
        """Let it live on when we end."""
        assert self.keeper.stdin
        self.keeper.stdin.write(b"detach\n")
        self.keeper.stdin.close()

    def stop(self) -> None:
        """Ask it to stop in order; returns at once."""
        self.keeper.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Stop it and wait until nothing of it is left."""
        assert self.keeper.stdin
        assert self.keeper.stdout
        with contextlib.suppress(OSError):
            self.keeper.stdin.close()
        self.keeper.wait()
        self.keeper.stdout.close()


def launch(role: Role, home: Home) -> Launched:
    """Start the keeper in a session of its own (a terminal's Ctrl-C is ours to pass on). Raises HeadraceError."""
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
    """URLs of instances that belong to one test run. `database_url` is a superuser's, on the database postgres."""

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
    """PostgreSQL, RabbitMQ and Redis for the length of the block; removed afterwards, also when we are killed.

    `directory` (made when missing, removed at the end) is where they live; by default a new temporary one.
    Raises HeadraceError when one of them does not start.
    """
    launched = launch("servers", Home(directory or Path(tempfile.mkdtemp(prefix="headrace-"))))
    try:
        wait_ready(launched)
        yield read_private_servers(launched.home)
    finally:
        launched.close()


def wait_ready(launched: Launched) -> None:
    """Return when all is ready. Raises as Launched.events does."""
    for event in launched.events():
        if event["event"] == "ready":
            return
