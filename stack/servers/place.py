"""Where one private server lives: its program, its directory, its user."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from stack.home.credentials import write_private
from stack.home.directory import Home
from stack.process.identity import Identity, can_enter, give, identity_for
from stack.servers.binaries import Binary


@dataclass(frozen=True)
class Place:
    """`directory` belongs to `identity`, is 0700, and is a real path that this user can reach."""

    binary: Binary
    directory: Path
    log: Path
    identity: Identity | None

    def write(self, name: str, text: str) -> Path:
        """Put a file there that only the server's user reads."""
        path = self.directory / name
        write_private(path, text)
        give(path, self.identity)
        return path


def make_place(home: Home, server: str, binary: Binary) -> Place:
    """The place of `server`, made on first use; under /var/tmp when its user cannot reach the state directory."""
    identity = identity_for(server)
    link = home.path / server
    # Paths of another disposition (run as another user, moved) are left alone: the server itself will say so.
    if not link.exists() and not can_enter(identity, home.path):
        _link_to_fallback(home, server, link)
    directory = link.resolve()
    directory.mkdir(mode=0o700, exist_ok=True)
    give(directory, identity)
    return Place(binary, directory, home.log(server), identity)


def _link_to_fallback(home: Home, server: str, link: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(home.make_fallback() / server)


def minimal_environment(**extra: str) -> dict[str, str]:
    """What a server needs and nothing of the caller's shell: PGDATA or RABBITMQ_* set there must not leak in."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **extra}


def remove_tree(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
