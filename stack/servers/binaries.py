"""Finds the servers' programs on this machine, their versions, and the package of each."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OLDEST_POSTGRES = 13
OLDEST_REDIS = 7  # see redis_users
# The wrapper in /usr/sbin refuses every user but root and rabbitmq; the script behind it does not.
RABBITMQ_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
PACKAGES = {"postgres": "postgresql", "rabbitmq": "rabbitmq-server", "redis": "redis-server"}
TITLES = {"postgres": "PostgreSQL", "rabbitmq": "RabbitMQ", "redis": "Redis"}


@dataclass(frozen=True)
class Binary:
    """An installed server. `path`: its program; for PostgreSQL, the directory of its programs."""

    path: Path
    version: str


def find(server: str) -> Binary | None:
    """The installed `postgres`, `rabbitmq` or `redis`; None if there is none that we can use."""
    return {"postgres": find_postgres, "rabbitmq": find_rabbitmq, "redis": find_redis}[server]()


def find_postgres() -> Binary | None:
    """The newest PostgreSQL from OLDEST_POSTGRES on: Debian's directories first, then PATH."""
    on_path = shutil.which("postgres")
    candidates = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), *([Path(on_path)] if on_path else [])]
    found = [
        Binary(path.resolve().parent, version) for path in candidates if (version := _version([str(path), "--version"]))
    ]
    usable = [binary for binary in found if major(binary.version) >= OLDEST_POSTGRES and _complete(binary)]
    return max(usable, key=lambda binary: major(binary.version), default=None)


def find_rabbitmq() -> Binary | None:
    """Find RabbitMQ. Reads the version from a directory name: asking the program costs seconds."""
    script = RABBITMQ_SCRIPTS / "rabbitmq-server"
    if not script.exists():
        on_path = shutil.which("rabbitmq-server")
        if on_path is None or Path(on_path).is_relative_to("/usr/sbin"):
            return None
        script = Path(on_path).resolve()
    releases = sorted(script.parent.parent.glob("lib/rabbitmq_server-*")) or [script.parent.parent]
    return Binary(script, releases[-1].name.rpartition("-")[2])


def find_redis() -> Binary | None:
    path = shutil.which("redis-server")
    version = _version([path, "--version"]) if path else None
    return Binary(Path(path), version) if path and version and major(version) >= OLDEST_REDIS else None


def major(version: str) -> int:
    return int(version.partition(".")[0])


def _complete(binary: Binary) -> bool:
    return (binary.path / "initdb").exists()


def _version(command: list[str]) -> str | None:
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(?:v=|PostgreSQL\) )(\d+[\w.]*)", output)
    return match[1] if match else None
