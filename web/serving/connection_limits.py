"""How many connections a server has, and which of them makes room when one more comes."""

import resource
from collections import OrderedDict
from typing import Protocol

import uvicorn

from pipeline.process.lifecycle import Misconfigured
from web.access.hosts import Hosts
from web.serving.closures import Closed, closures

# Connections past the limit that are told so, at the same time. Those past these are closed without a word.
REFUSED_AT_ONCE = 128
# Files that are no clients: database, broker and Redis, standard streams, what the interpreter opens.
_OTHER_FILES = 128
# No client gets these: they are for connections to the broker and the database that have to be made again, and for
# probes. Health pages are served until the last few.
RESERVED_FILES = 64
HEALTH_FILES = 16


class Closable(Protocol):
    def make_way(self) -> None: ...


class Config(uvicorn.Config):
    """uvicorn's, and what all connections of a server share."""

    max_connections: int
    """At once, idle ones included."""
    hosts: Hosts | None
    """Those that are answered; None: any."""
    reserved_files: int
    """File descriptors that connections leave to the rest of the process."""
    waiting: "OrderedDict[Closable, None]"
    """Those that owe us something, the one that has owed it for longest first: idle ones, new or between two requests;
    those in the middle of sending a request; those that were told to go. To leave and to come back costs a request 0.1
    µs (measured with 4,096 of them), a thousandth of what an order takes; the timer that goes with it costs 0.8.
    Ordered by links, not as a dict is: there, to find the first takes the longer the more have left before it.
    """
    unfinished: int = 0
    """How many of those are in the middle of a request."""

    def make_room(self) -> bool:
        """Close the one that has been waited for the longest. Whether there was one.

        Those that hold a place and use it are few; those that hold it and do not are whatever a script has opened, and
        would keep everybody else out. An honest client is hardly ever the first of the line: it is idle or in the
        middle of a request for a moment, and a flood of N connections a second gives it max_connections/N seconds.
        """
        if not self.waiting:
            return False
        self.waiting.popitem(last=False)[0].make_way()
        closures.note(Closed.ROOM)
        return True


def allow_open_files(max_connections: int) -> None:
    """Let the process have a file for each connection. Raises Misconfigured if the system does not."""
    needed = max_connections + REFUSED_AT_ONCE + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise Misconfigured(
                f"max_connections={max_connections} needs {needed} open files, and the system allows {hard}:"
                " raise its limit (ulimit -Hn, LimitNOFILE=), or set *_MAX_CONNECTIONS lower"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
