"""The state file: what runs, where, and with which pids. The supervisor writes it, all other commands read it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stack.home.credentials import write_private
from stack.home.directory import Home
from stack.process import proc

Phase = Literal["starting", "ready", "stopping", "down"]
SERVERS = ("postgres", "rabbitmq", "redis")
SERVICES = ("ingest_api", "persist_worker", "product_consumer", "product_api", "event_relay")


@dataclass
class Part:
    """One server or service. `url` may hold a password: the file is 0600."""

    url: str
    pid: int | None = None
    state: str = "stopped"
    restarts: int = 0
    version: str = ""
    why: str = ""
    """Why a service is not ready, by its own account."""
    health_url: str = ""
    """An API's health listener, which works even when client connections are exhausted. "": the same as `url`."""

    @property
    def asked_at(self) -> str:
        """The address of /health and /metrics."""
        return self.health_url or self.url


@dataclass
class StackState:
    """The state of a stack. `ports` outlive the run: the next one tries them first."""

    phase: Phase = "down"
    supervisor: tuple[int, int] = (0, 0)
    keeper: tuple[int, int] = (0, 0)
    ports: dict[str, int] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    management_url: str = ""
    # URLs of `database` and `broker` for the operator's commands. Their account is no administrator's.
    operator: dict[str, str] = field(default_factory=dict)

    def save(self, home: Home) -> None:
        write_private(home.state, json.dumps(asdict(self), indent=2) + "\n")

    @property
    def is_running(self) -> bool:
        """Whether the supervisor that wrote this runs. (The file outlives a kill -9.)"""
        return proc.is_alive(*self.supervisor)


def load(home: Home) -> StackState:
    """The last state written; an empty one if there is none, or it cannot be read."""
    try:
        raw: dict[str, Any] = json.loads(home.state.read_text())
        raw["parts"] = {name: Part(**part) for name, part in raw["parts"].items()}
        raw["ports"] = {name: port for name, port in raw["ports"].items() if port in range(1, 65536)}
        for process in ("supervisor", "keeper"):
            raw[process] = _process(*raw[process])
        return StackState(**raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return StackState()


def _process(pid: int, started: int) -> tuple[int, int]:
    """Check a (pid, start). Raises ValueError for a pid below 2: a signal to it would hit other processes."""
    if (pid, started) != (0, 0) and int(pid) <= 1:
        raise ValueError(f"pid {pid}")
    return int(pid), int(started)
