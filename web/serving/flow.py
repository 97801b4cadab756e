"""Back-pressure: bounds what a connection holds for a client that asks faster than it reads, and for how long.

uvicorn pauses an endpoint that writes more than its client reads, for as long as the client likes. And it resumes
reading after every answer, so a client that asks without end has requests without end waiting.
"""

import asyncio
import socket
import struct
from collections.abc import Sized

from uvicorn.protocols.http.flow_control import FlowControl

from web.serving.closures import Closed, closures

# How long a client may take to read this much of an answer; 3 kB/s, slower than any modem. Bytes that the kernel has
# taken count as read.
READ_DEADLINE_S = 10.0
MIN_READ_BYTES = 32 * 1024

_AT_ONCE = struct.pack("ii", 1, 0)


def drop(transport: asyncio.Transport) -> None:
    """Reset the connection of a client that does not read. Else the kernel would keep what is unsent, up to 4 MB."""
    closures.note(Closed.UNREAD)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()


class Flow(FlowControl):
    """uvicorn's flow control. It also drops clients that do not read, and reads nothing while requests wait."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, waiting: Sized) -> None:
        """`waiting`: requests that were read but have not begun."""
        super().__init__(transport)
        self._loop, self._waiting = loop, waiting
        self._deadline: asyncio.TimerHandle | None = None

    def resume_reading(self) -> None:
        # The first waiting request is complete: nothing that is still to be read holds it up.
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
        """Drop the connection unless the client reads what was written in time."""
        unread_bytes = self._transport.get_write_buffer_size()
        if unread_bytes and self._deadline is None:
            self._deadline = self._loop.call_later(READ_DEADLINE_S, self._check, unread_bytes)

    def _check(self, unread_bytes: int) -> None:
        self._deadline = None
        if self._transport.get_write_buffer_size() > max(0, unread_bytes - MIN_READ_BYTES):
            drop(self._transport)
        else:
            self.watch()
