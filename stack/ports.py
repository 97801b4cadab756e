"""Ports that shift when they are taken.

Two stacks that start at once must not both find the same port free. So a chosen port is also reserved among stacks by
an abstract Unix socket named after it: like TCP ports, such names belong to the network namespace, and the kernel frees
them when their holder dies. Against strangers there is only the probe.
"""

from __future__ import annotations

import socket

from stack.errors import HeadraceError

LOOPBACK = "127.0.0.1"
TRIES = 200


class Ports:
    """The ports of one stack; `remembered` are those of its last run, tried first so that URLs stay."""

    def __init__(self, remembered: dict[str, int] | None = None) -> None:
        self._remembered = remembered or {}
        self._reservations: list[socket.socket] = []
        self.chosen: dict[str, int] = {}

    @property
    def remembered(self) -> dict[str, int]:
        """For the next run: what this one chose, and what an earlier one chose and this one did not need."""
        return {**self._remembered, **self.chosen}

    def choose(self, name: str, default: int) -> int:
        """A free port for `name`: the remembered one, else `default`, else the next free one above it."""
        candidates: list[int] = [self._remembered.get(name, default), *range(default, default + TRIES)]
        for port in candidates:
            if port not in self.chosen.values() and self._reserve(port):
                self.chosen[name] = port
                return port
        raise HeadraceError(
            f"no free port for {name}",
            f"all ports from {default} to {default + TRIES - 1} are taken",
            "see who listens: ss -ltnp",
        )

    def _reserve(self, port: int) -> bool:
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0headrace-port-{port}")
        except OSError:
            reservation.close()
            return False
        if not is_free(port):
            reservation.close()
            return False
        self._reservations.append(reservation)
        return True


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        # As servers do: connections of a former listener in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
