"""Limits a server's connections, and picks the one that makes room when another comes."""

import resource
from collections import OrderedDict
from typing import Protocol

import uvicorn

from pipeline.process.lifecycle import Misconfigured
from web.access.hosts import Hosts
from web.serving.closures import Closed, closures

# Connections past the limit that get an answer saying so, at the same time. Further ones are closed without a word.
REFUSED_AT_ONCE = 128
# Files that are not clients: database, broker and Redis, standard streams, what the interpreter opens.
_OTHER_FILES = 128
# No client gets these. They are for reconnecting to the broker and the database, and for probes. The health pages are
# served until only the last few are left.
RESERVED_FILES = 64
HEALTH_FILES = 16


class Closable(Protocol):
    def make_way(self) -> None: ...


class Config(uvicorn.Config):
    """uvicorn's configuration, and the state that all connections of a server share."""

    max_connections: int
    """Connections at once, idle ones included."""
    hosts: Hosts | None
    """Hosts that are answered; None: any."""
    reserved_files: int
    """File descriptors that connections leave to the rest of the process."""
    waiting: "OrderedDict[Closable, None]"
    """Connections that the server waits for, the one waited for longest first. They are idle (new or between two
    requests), in the middle of sending a request, or told to go. Leaving and coming back costs a request 0.1 µs
    (measured with 4,096 of them), a thousandth of an order. The timer that goes with it costs 0.8.
    An OrderedDict is ordered by links. A dict takes the longer to find its first, the more have left before it.
    """
    unfinished: int = 0
    """How many of `waiting` are in the middle of sending a request."""

    def make_room(self) -> bool:
        """Close the connection that has been waited for the longest. Returns whether there was one.

        Few connections hold a place and use it. A script can open any number that do not, and would keep all others
        out. An honest client is hardly ever first in line, because it is idle or in the middle of a request only for a
        moment. A flood of N connections a second gives it max_connections/N seconds.
        """
        if not self.waiting:
            return False
        self.waiting.popitem(last=False)[0].make_way()
        closures.note(Closed.ROOM)
        return True


def allow_open_files(max_connections: int) -> None:
    """Raise the process's file limit to fit each connection. Raises Misconfigured if the system does not allow it."""
    needed = max_connections + REFUSED_AT_ONCE + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise Misconfigured(
                f"max_connections={max_connections} needs {needed} open files, and the system allows {hard}:"
                " raise its limit (ulimit -Hn, LimitNOFILE=), or set *_MAX_CONNECTIONS lower"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
