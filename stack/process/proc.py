"""Reads /proc: descendants of a process, listeners of a port, and whether a pid is still the same process."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Stat:
    """One process: pid, name as the kernel keeps it, state, parent's pid, and start in clock ticks since boot."""

    pid: int
    name: str
    state: str
    parent: int
    started: int


def stat_of(pid: int) -> Stat | None:
    """The process of this pid; None if it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # "pid (name) state parent ...": the name may hold spaces and parentheses, so split at the last one.
    name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    return Stat(pid, name, fields[0], int(fields[1]), int(fields[19]))


def arguments_of(pid: int) -> list[str]:
    """The command line; empty if the process is gone or a zombie."""
    try:
        return (PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def is_alive(pid: int, started: int) -> bool:
    """Whether this process runs. A reused pid has another start; a zombie does not run."""
    found = stat_of(pid)
    return found is not None and found.started == started and found.state != "Z"


def identify(pid: int) -> tuple[int, int]:
    """The process as (pid, start), which is never reused."""
    found = stat_of(pid)
    return (pid, found.started if found else 0)


def descendants(root: int) -> list[Stat]:
    """All descendants of `root`, parents before children, without zombies."""
    children: dict[int, list[Stat]] = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (found := stat_of(int(entry.name))):
            children[found.parent].append(found)
    below, pids = [], [root]
    while pids:
        level = [child for pid in pids for child in children[pid]]
        below += level
        pids = [child.pid for child in level]
    return [found for found in below if found.state != "Z"]


LISTENING = "0A"


def listener_of(port: int) -> str | None:
    """The listener of this TCP port as "name, pid N"; None if there is none, or this user may not see it."""
    inodes = _listening_inodes(port)
    for entry in PROC.iterdir():
        if entry.name.isdigit() and _holds(entry, inodes) and (found := stat_of(int(entry.name))):
            return f"{found.name}, pid {found.pid}"
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        return any(str(link.readlink()) in inodes for link in (process / "fd").iterdir())
    except OSError:
        return False
