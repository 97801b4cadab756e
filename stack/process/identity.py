"""Who runs a server: root hands each one to its own user, anyone else runs them all."""

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
    """The one thing of root's that it may do, as capabilities(7) calls it, in small letters and without `cap_`."""


def identity_for(user: str) -> Identity | None:
    """The user to run a server as; None for the caller's own. A server that came without its user runs as nobody."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return Identity(entry.pw_name, entry.pw_uid, entry.pw_gid)


def services_identity() -> Identity | None:
    """The user to run services as, if it can (see service_user); None for the caller's own."""
    return identity_for("headrace")


def wrap(argv: list[str], identity: Identity | None, death_signal: signal.Signals | None = None) -> list[str]:
    """The command that becomes `argv`: as `identity`, and told `death_signal` by the kernel when its parent dies.

    setpriv (util-linux, essential in Debian) rather than preexec_fn: the kernel forgets the death signal at a change
    of user, setpriv sets it after that change, and no Python runs between fork and exec.
    """
    options = [f"--pdeathsig={death_signal.name.removeprefix('SIG')}"] if death_signal else []
    if identity:
        options += [f"--reuid={identity.uid}", f"--regid={identity.gid}", "--init-groups"]
        if identity.capability:
            options += [f"--{which}-caps=+{identity.capability}" for which in ("inh", "ambient")]
    return ["setpriv", *options, "--", *argv] if options else argv


def can_enter(identity: Identity | None, directory: Path) -> bool:
    """Whether that user can pass through `directory` and all that is above it."""
    probe = wrap(["test", "-x", str(directory)], identity)
    return identity is None or subprocess.run(probe, cwd="/", check=False, stderr=subprocess.DEVNULL).returncode == 0


def give(path: Path, identity: Identity | None) -> None:
    """Hand a file or directory to the user of a server."""
    if identity:
        os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
