"""How many connections a server has, and which of them makes room when one more comes."""

import resource
from collections import OrderedDict
from typing import Protocol

import uvicorn

from pipeline.lifecycle import Misconfigured

# Connections past the limit that are told so, at the same time. Those past these are closed without a word.
REFUSED_AT_ONCE = 128
# Files that are no clients: database, broker and Redis, standard streams, what the interpreter opens.
_OTHER_FILES = 128


class Closable(Protocol):
    def timeout_keep_alive_handler(self) -> None: ...


class Config(uvicorn.Config):
    """uvicorn's, and what all connections of a server share."""

    max_connections: int
    """At once, idle ones included."""
    idle: "OrderedDict[Closable, None]"
    """Those from which nothing is expected before they send something, the one that has been so for longest first: new
    ones, those between two requests, and those that were told to go. To leave and to come back costs a request 0.1 µs
    (measured with 4,096 of them), a thousandth of what an order takes; the timer that goes with it costs 0.8. Ordered
    by links, not as a dict is: there, to find the first takes the longer the more have left before it.
    """


def make_room(idle: "OrderedDict[Closable, None]") -> bool:
    """Close the one that has been idle for longest, as if its time were up. Whether there was one.

    Those that hold a place and use it are few; those that hold it and do not are whatever a script has opened, and
    would keep everybody else out.
    """
    if not idle:
        return False
    idle.popitem(last=False)[0].timeout_keep_alive_handler()
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
