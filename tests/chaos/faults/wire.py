"""Moments on a connection: certain bytes were sent and received by the other side, and not answered yet.

They are recognised by the bytes, not by the client's functions: asyncpg's are compiled, and buffers of ours and of the
system lie between "called" and "sent".
"""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.support.time.conditions import eventually

Moment = Callable[[bytes], int | None]
"""Called with all written bytes, in order. Returns how many of them to send before the moment; None: not yet."""


@dataclass(frozen=True, slots=True)
class Interruption:
    is_due: Callable[[], bool]
    act: Callable[[], Awaitable[None]] | None
    """None: reset the connection."""


class WatchedTransport:
    """A watched transport. Everything except writes goes straight to the real one."""

    def __init__(self, transport: asyncio.Transport, moment: Moment, interruption: Interruption) -> None:
        self._transport, self._moment, self._interruption = transport, moment, interruption
        self._held: bytearray | None = None
        """Bytes written during the moment."""
        self._interrupting: asyncio.Task[None] | None = None

    def write(self, data: bytes | memoryview) -> None:
        if self._held is not None:
            self._held += data
            return
        length = self._moment(bytes(data))
        if length is None or not self._interruption.is_due():
            self._transport.write(data)
            return
        self._transport.pause_reading()
        self._transport.write(data[:length])
        self._held = bytearray(data[length:])
        self._interrupting = asyncio.get_running_loop().create_task(self._act())

    def writelines(self, parts: Iterable[bytes | memoryview]) -> None:
        for part in parts:
            self.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def _act(self) -> None:
        await eventually(lambda: _is_acknowledged(self._transport))
        if self._interruption.act is None:
            self._transport.abort()
            return
        await self._interruption.act()
        held, self._held = self._held, None
        if held:
            self._transport.write(held)
        self._transport.resume_reading()


def _is_acknowledged(transport: asyncio.Transport) -> bool:
    """Whether the other side's system has acknowledged all written bytes."""
    if transport.is_closing():
        return True
    if transport.get_write_buffer_size():
        return False
    answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return bool(struct.unpack("i", answer)[0] == 0)


# ── PostgreSQL: one message a write; a byte for its kind, four for its length, then what it says


def half_a_copy(data: bytes) -> int | None:
    """The moment in the middle of the rows of a COPY."""
    return len(data) // 2 if data[:1] == b"d" else None


class CommitSent:
    """The moment after COMMIT, or after the end of a COPY that is its own transaction."""

    def __init__(self) -> None:
        self._in_block = False

    def __call__(self, data: bytes) -> int | None:
        kind, text = data[:1], data[5:14]
        commits = text.startswith(b"COMMIT") if kind == b"Q" else kind == b"c" and not self._in_block
        if kind == b"Q" and text.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK;")):
            self._in_block = text.startswith(b"BEGIN")
        return len(data) if commits else None


# ── RabbitMQ: frames; their kind, two bytes of channel, four of length, then class and method

_METHOD, _BASIC_PUBLISH = b"\x01", struct.pack("!HH", 60, 40)


def order_published(data: bytes) -> int | None:
    """The moment after a message with orders."""
    is_it = data[:1] == _METHOD and data[7:11] == _BASIC_PUBLISH and b"order." in data[:80]
    return len(data) if is_it else None
