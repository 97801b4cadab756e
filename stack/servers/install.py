"""Installs missing servers, or says how to."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.home.environment import external_urls
from stack.home.state import SERVERS
from stack.process.logfile import open_log
from stack.servers import binaries
from stack.terminal import say, spinner, step_done

SCRIPT = Path(__file__).with_name("install.sh")


def missing_servers(servers: tuple[str, ...] = SERVERS) -> list[str]:
    """The servers that neither the environment names nor this machine has."""
    given = external_urls()
    return [server for server in servers if server not in given and binaries.find(server) is None]


def packages_of(servers: list[str]) -> list[str]:
    return [binaries.PACKAGES[server] for server in servers]


def become_root() -> list[str] | None:
    """The prefix that runs a command as root; None if that would need a password."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def ensure_servers(home: Home, missing: list[str]) -> None:
    """Install the packages of the missing servers. Raises HeadraceError if that fails."""
    if not missing:
        return
    prefix = become_root()
    packages = packages_of(missing)
    if prefix is None or shutil.which("apt-get") is None:
        raise cannot_install(missing)
    home.create()
    say(f"  installing {' '.join(packages)} (without starting any service) ...")
    since = time.monotonic()
    with spinner(f"apt-get install {' '.join(packages)}"):
        code = _run([*prefix, "sh", str(SCRIPT), *packages], home.log("apt"))
    if code != 0 or (left := [server for server in missing if binaries.find(server) is None]):
        cause = f"apt-get ended with exit code {code}" if code else f"it installed no usable {', '.join(left)}"
        fix = f"{apt_line(missing)}   (as root), then: ./headrace up"
        raise HeadraceError(f"cannot install {' '.join(packages)}", cause, fix, str(home.log("apt")))
    step_done(f"installed {' '.join(packages)}", time.monotonic() - since)


def _run(command: list[str], log: Path) -> int:
    """Run a command in its own session: a Ctrl-C must not stop dpkg halfway, so it finishes in the background."""
    with open_log(log) as output:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            check=False,
        ).returncode


def apt_line(missing: list[str]) -> str:
    return f"apt-get install --no-install-recommends {' '.join(packages_of(missing))}"


def cannot_install(missing: list[str]) -> HeadraceError:
    titles = ", ".join(binaries.TITLES[server] for server in missing)
    return HeadraceError(
        f"{titles} not installed",
        "this user is not root and has no password-less sudo"
        if shutil.which("apt-get")
        else "this machine has no apt-get",
        f"sudo {apt_line(missing)}   or, with Docker: docker compose up --build",
    )
