"""Waits for processes that a killed run left, and removes stale lock files.

The caller holds the lock of the state directory, so no other stack starts there meanwhile.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stack.errors import HeadraceError
from stack.process import proc
from stack.process.identity import Identity, wrap
from stack.servers.place import Place

# RabbitMQ gets 15 s for a graceful stop (rabbitmq.spec). The kernel signals it when its supervisor dies.
PATIENCE_S = 20.0
POLL_S = 0.1
# How the kernel names each server's processes.
PROGRAMS = {"postgres": {"postgres"}, "rabbitmq": {"beam.smp", "epmd"}, "redis": {"redis-server"}}
# Prints the pids whose working directory is $1. Zombies have none. Only the same user may read it in /proc.
OCCUPANTS = 'for each in /proc/[0-9]*; do if [ "$each/cwd" -ef "$1" ]; then echo "${each#/proc/}"; fi; done'


async def wait_for_former_server(server: str, place: Place) -> None:
    """Wait until no process of the server uses its directory: two servers on the same files would damage them.

    Raises HeadraceError if one has not ended within PATIENCE_S. It may have clients, so it is not killed.
    """
    directory = place.directory / "data" if server == "postgres" else place.directory
    await _wait_for_end(
        lambda: _occupants(directory, PROGRAMS[server], place.identity), f"{server} of an earlier run in {directory}"
    )


async def wait_for_former_services(pids: Mapping[str, int | None]) -> None:
    """Wait until the services of an earlier run have ended, so that their ports are free. Raises HeadraceError."""

    def living() -> list[int]:
        return [pid for name, pid in pids.items() if pid and _is_service(pid, name)]

    await _wait_for_end(living, "a service of an earlier run")


async def free_data(place: Place) -> None:
    """Wait until no process uses PostgreSQL's data directory, and remove a stale lock file.

    PostgreSQL refuses to start while the pid in `postmaster.pid` exists, even as a zombie or as another process with
    that number. After a power cut the file may be empty. PostgreSQL itself still refuses to start while a process is
    attached to the directory's shared memory. Raises HeadraceError.
    """
    await wait_for_former_server("postgres", place)
    (place.directory / "data" / "postmaster.pid").unlink(missing_ok=True)


async def _wait_for_end(living: Callable[[], list[int]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while former := await asyncio.to_thread(living):
        if time.monotonic() > deadline:
            pids = " ".join(map(str, former))
            cause = f"it has not ended within {PATIENCE_S:.0f} s: process {pids}"
            raise HeadraceError(f"{what} still runs", cause, f"kill -9 {pids}, then: ./headrace up")
        await asyncio.sleep(POLL_S)


def _occupants(directory: Path, programs: set[str], identity: Identity | None) -> list[int]:
    """The pids of living `programs` whose working directory is `directory`."""
    command = wrap(["sh", "-c", OCCUPANTS, "sh", str(directory)], identity)
    # check=True: without an answer, it is unknown whether the directory is free.
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    found = [proc.stat_of(int(pid)) for pid in done.stdout.split()]
    return [process.pid for process in found if process and process.name in programs and process.state != "Z"]


def _is_service(pid: int, name: str) -> bool:
    """Whether the process is a living service of this name. After a reboot, the pid may be another process's."""
    found = proc.stat_of(pid)
    return found is not None and found.state != "Z" and proc.arguments_of(pid)[1:] == ["-m", name]
