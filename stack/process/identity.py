"""Which user runs a process: as root, each server gets its own user; otherwise all run as the caller."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    name: str
    uid: int
    gid: int
    capability: str | None = None
    """The one capability of root's that it keeps, named as in capabilities(7), lower case, without `cap_`."""


def identity_for(user: str) -> Identity | None:
    """The user to run a server as; None: the caller. If the user does not exist, nobody."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return Identity(entry.pw_name, entry.pw_uid, entry.pw_gid)


def services_identity() -> Identity | None:
    """The user to run services as, if they can (see stack.services.user); None: the caller."""
    return identity_for("headrace")


def wrap(argv: list[str], identity: Identity | None, death_signal: signal.Signals | None = None) -> list[str]:
    """The command that runs `argv` as `identity`. The kernel sends it `death_signal` when its parent dies.

    Uses setpriv (util-linux, essential in Debian), not preexec_fn: a change of user clears the death signal. setpriv
    sets it after the change, and no Python runs between fork and exec.
    """
    options = [f"--pdeathsig={death_signal.name.removeprefix('SIG')}"] if death_signal else []
    if identity:
        options += [f"--reuid={identity.uid}", f"--regid={identity.gid}", "--init-groups"]
        if identity.capability:
            options += [f"--{which}-caps=+{identity.capability}" for which in ("inh", "ambient")]
    return ["setpriv", *options, "--", *argv] if options else argv


def can_enter(identity: Identity | None, directory: Path) -> bool:
    """Whether the user can pass through `directory` and its parents."""
    probe = wrap(["test", "-x", str(directory)], identity)
    return identity is None or subprocess.run(probe, cwd="/", check=False, stderr=subprocess.DEVNULL).returncode == 0


def give(path: Path, identity: Identity | None) -> None:
    """Make the user the owner of a file or directory."""
    if identity:
        os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
