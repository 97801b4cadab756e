"""How much a connection holds for a client that asks faster than it reads, and for how long.

uvicorn stops an endpoint that has more to say than its client reads, and there it stays for as long as the client
likes. And it goes on reading after every answer, so that a client which asks without end has requests without end
waiting.
"""

import asyncio
import socket
import struct
from collections.abc import Sized

from uvicorn.protocols.http.flow_control import FlowControl

from web.serving.closures import Closed, closures

# How long a client may take to read this much of an answer; 3 kB/s, slower than any modem. What the kernel has room for
# counts as read.
READ_DEADLINE_S = 10.0
MIN_READ_BYTES = 32 * 1024

_AT_ONCE = struct.pack("ii", 1, 0)


def drop(transport: asyncio.Transport) -> None:
    """Close on a client that does not read, with a reset. Else the kernel would keep what is unsent, up to 4 MB."""
    closures.note(Closed.UNREAD)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()


class Flow(FlowControl):
    """uvicorn's, with an end for who does not read, and without reading while requests wait."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, waiting: Sized) -> None:
        """`waiting`: the requests that were read and not begun."""
        super().__init__(transport)
        self._loop, self._waiting = loop, waiting
        self._deadline: asyncio.TimerHandle | None = None

    def resume_reading(self) -> None:
        # The first of those that wait is complete: nothing that is still to be read holds it up.
        if self.read_paused and not self._waiting:
            super().resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def watch(self) -> None:
        """Drop the connection unless what was written is read in time."""
        unread_bytes = self._transport.get_write_buffer_size()
        if unread_bytes and self._deadline is None:
            self._deadline = self._loop.call_later(READ_DEADLINE_S, self._check, unread_bytes)

    def _check(self, unread_bytes: int) -> None:
        self._deadline = None
        if self._transport.get_write_buffer_size() > max(0, unread_bytes - MIN_READ_BYTES):
            drop(self._transport)
        else:
            self.watch()
