"""Chooses ports: the usual one, or the next free one if it is taken.

Two stacks that start at once must not choose the same port. So a stack also reserves each port with an abstract Unix
socket named after it. Like TCP ports, such names belong to the network namespace, and the kernel frees them when their
holder dies. Other programs do not know the reservation; against them there is only the probe.
"""

from __future__ import annotations

import errno
import socket

from stack.errors import HeadraceError
from stack.process.proc import listener_of

LOOPBACK = "127.0.0.1"
TRIES = 200


class Ports:
    """The ports of one stack. `remembered`: those of its last run, so that URLs stay the same."""

    def __init__(self, remembered: dict[str, int] | None = None) -> None:
        self._remembered = remembered or {}
        self._reservations: list[socket.socket] = []
        self.chosen: dict[str, int] = {}
        self._taken: dict[str, str] = {}

    @property
    def remembered(self) -> dict[str, int]:
        """The ports for the next run to try first: this run's, and earlier ones that this run did not need."""
        return {**self._remembered, **self.chosen}

    def choose(self, name: str, default: int) -> int:
        """A free port for `name`: the remembered one, else `default`, else the next free one above it."""
        return self._first_free(name, default, [self._remembered.get(name, default)])

    def choose_near(self, name: str, wanted: int) -> int:
        """As `choose`, for a port that people type: tries `wanted` before the remembered one. `why` says who has it."""
        port = self._first_free(name, wanted, [wanted, self._remembered.get(name, wanted)])
        if port != wanted:
            self._taken[name] = f" ({wanted} is taken{_by(listener_of(wanted))})"
        return port

    def why(self, name: str) -> str:
        """Who has the port that `name` wanted, in parentheses; empty if `name` has it."""
        return self._taken.get(name, "")

    def _first_free(self, name: str, default: int, first: list[int]) -> int:
        candidates: list[int] = [*first, *range(default, min(default + TRIES, 65536))]
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


def _by(holder: str | None) -> str:
    return f" by {holder}" if holder else ""


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address."""
    return _why_not(port, LOOPBACK) is None


def is_taken(port: int, host: str) -> bool:
    """Whether a process listens on this port of `host`. False if `host` is no address of this machine."""
    error = _why_not(port, host)
    return error is not None and error.errno == errno.EADDRINUSE


def _why_not(port: int, host: str) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a former listener's connections in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            return error
        return None
