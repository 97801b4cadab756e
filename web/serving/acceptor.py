"""Accepts new connections from listening sockets, as long as the process has file descriptors to spare.

uvloop's own servers accept whatever comes. Without a descriptor left they spin. A third of a core went into errors of
accept(), probes were reset, and no connection to the broker or the database could be made. The Acceptor pauses while a
reserve is left. Meanwhile clients wait in the kernel's queue, and idle or unfinished connections are closed.
"""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable

import structlog

from pipeline.process import metrics

log = structlog.get_logger()

# Connections accepted in one go, and for one count of the open files: counting 4,000 of them takes 1 ms.
_AT_ONCE = 64
# How old a count may be: other parts of the process open files as well.
_RECOUNT_AFTER_S = 1.0
# How soon the Acceptor looks again: if some connections made room, and if none could. And how many descriptors beyond
# the reserve it needs to go on.
_SOON_S, _LATER_S = 0.02, 0.25
_SPARE = 32
# Of each kind of log line. The metrics count what comes in between.
_TELL_EVERY_S = 60.0


def free_files() -> int:
    """How many files the process may still open. Negative if the limit was lowered below what is open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 2**31
    try:
        return limit - len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (1 ms less for 4,000)
    except OSError:  # no descriptor is left to look with
        return 0


async def listen(host: str, port: int, backlog: int) -> list[socket.socket]:
    """A socket for each address of `host`. Raises OSError."""
    loop, sockets = asyncio.get_running_loop(), []
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setblocking(False)
            listener.bind(address)
            listener.listen(backlog)
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


class Acceptor:
    """Accepts connections, with a reserve of file descriptors. To uvicorn it is a server: `close`, `wait_closed`."""

    def __init__(
        self,
        sockets: list[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        make_room: Callable[[], bool],
        *,
        reserved_files: int,
    ) -> None:
        """`make_room`: closes a connection that can be spared, if any. `reserved_files`: never used for connections."""
        self._sockets, self._make_protocol, self._make_room = sockets, make_protocol, make_room
        self._reserved_files = reserved_files
        self._loop = asyncio.get_running_loop()
        self._budget, self._counted_at = 0, 0.0
        self._told_at: dict[str, float] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[object]] = set()
        self._resume()

    def close(self) -> None:
        self._pause()
        if self._looking is not None:
            self._looking.cancel()
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()

    async def wait_closed(self) -> None:
        """Return at once: nothing is left to wait for after `close`."""

    def _resume(self) -> None:
        for listener in self._sockets:
            self._loop.add_reader(listener, self._accept_all, listener)

    def _pause(self) -> None:
        for listener in self._sockets:
            self._loop.remove_reader(listener)

    def _accept_all(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._may_accept():
                return
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._wait_for_system(error)
                return
            self._budget -= 1
            connecting = self._loop.create_task(self._connect(connection))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # the client has gone already
            connection.close()

    def _may_accept(self) -> bool:
        now = self._loop.time()
        if self._budget <= 0 or now > self._counted_at + _RECOUNT_AFTER_S:
            spare = free_files() - self._reserved_files
            self._budget, self._counted_at = min(_AT_ONCE, spare), now
            if spare <= 0:
                self._wait_for_files("few file descriptors are left")
        return self._budget > 0

    def _wait_for_files(self, why: str) -> None:
        """Accept nothing until there are file descriptors again."""
        self._stop_for_files(why)
        self._look()

    def _wait_for_system(self, error: OSError) -> None:
        """Try again later, whatever the count of files says: an immediate retry would fail again."""
        if error.errno == errno.EMFILE:
            self._stop_for_files(str(error))
        else:
            remedy = "look at the machine's memory (ENOMEM, ENOBUFS) and open files (ENFILE, fs.file-max)"
            self._stop("not accepting connections: the system refuses them", why=str(error), remedy=remedy)
        self._look_after(_LATER_S)

    def _stop_for_files(self, why: str) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._stop(
            "not accepting connections: out of file descriptors",
            why=why,
            limit=limit,
            kept_for_others=self._reserved_files,
            remedy="raise the limit (ulimit -n, LimitNOFILE=), or lower *_MAX_CONNECTIONS",
        )

    def _stop(self, event: str, **details: object) -> None:
        """Accept nothing until `_look` resumes."""
        self._pause()
        metrics.ACCEPT_PAUSES.inc()
        now = self._loop.time()
        if now > self._told_at.get(event, -_TELL_EVERY_S) + _TELL_EVERY_S:
            self._told_at[event] = now
            log.error(event, **details)

    def _look(self) -> None:
        """Resume if there are file descriptors; if not, close connections that can be spared."""
        missing = self._reserved_files + _SPARE - free_files()
        if missing <= 0:
            self._budget = 0
            self._resume()
            return
        has_made_room = False
        for _ in range(min(missing, _AT_ONCE)):
            if not self._make_room():
                break
            has_made_room = True
        self._look_after(_SOON_S if has_made_room else _LATER_S)

    def _look_after(self, delay_s: float) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._looking = self._loop.call_later(delay_s, self._look)
