"""The place of one private server: its program, directory, log and user."""

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
    """`directory`: owned by `identity`, mode 0700, a real path that this user can reach."""

    binary: Binary
    directory: Path
    log: Path
    identity: Identity | None

    def write(self, name: str, text: str) -> Path:
        """Write a file into the directory. Only the server's user can read it."""
        path = self.directory / name
        write_private(path, text)
        give(path, self.identity)
        return path


def make_place(home: Home, server: str, binary: Binary) -> Place:
    """The place of `server`, created if needed; under /var/tmp if its user cannot reach the state directory."""
    identity = identity_for(server)
    link = home.path / server
    # An existing path stays, even if the stack was moved or runs as another user: the server itself will say so.
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
    """The environment of a server, without the caller's variables: PGDATA or RABBITMQ_* must not leak in."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **extra}


def remove_tree(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
