"""Writes log lines to a file descriptor that may be full, broken or stuck, without ever waiting for it.

A thread writes. A log call puts its line into a bounded queue, which takes microseconds and cannot fail. A full disk, a
pipe without a reader or with a stuck one, a file system that hangs: each costs only log lines, which are counted. When
log calls wrote directly, an OSError in one ended the task that kept the broker's connection, and the process lived on
without it.
"""

import atexit
import contextlib
import io
import os
import select
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from pipeline.process import metrics

STDOUT, STDERR = 1, 2
# Bound on the lines that wait to be written. Beyond it they are dropped: a hang may last hours.
MAX_WAITING_BYTES = 1_000_000
# A longer line is cut: a traceback has a few KB.
MAX_LINE_BYTES = 32_000
# Memory of a line besides its text, so that a million empty ones are bounded too.
_OVERHEAD_BYTES = 64
# How often the thread reports dropped lines and ended floods, even if no line comes.
_TICK_S = 1.0
# Longest wait for unwritten lines at the end of a process.
FLUSH_S = 1.0

# `because` of metrics.LOG_LINES_DROPPED.
STUCK, UNWRITABLE, UNRENDERABLE, FLOOD = "stuck", "unwritable", "unrenderable", "flood"


class LogSink:
    """Writes lines to `fd` on a thread. No method raises, and none waits longer than it says."""

    def __init__(
        self, fd: int = STDERR, tell: Callable[[int, str], str] = lambda count, why: f"{count} dropped: {why}"
    ):
        """`tell`: makes the line that reports how many lines were dropped, and why, once writing works again."""
        self._fd, self._tell = fd, tell
        self.on_tick: Callable[[], None] = lambda: None
        """Called about once a second on the writing thread. It may put lines."""
        # SimpleQueue.put and RLock are re-entrant: a garbage collection or a signal in a log call may log as well.
        self._lines: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        self._dropped, self._why = 0, ""
        self._is_torn = False
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Queue a line to be written, or drop it. `line`: without its line break."""
        data = line.encode(errors="backslashreplace")
        if len(data) > MAX_LINE_BYTES:
            data = data[:MAX_LINE_BYTES].decode(errors="ignore").encode()  # no half character
        data += b"\n"
        with self._lock:
            if not self._start():
                self._drop(STUCK, "the system allows no thread to write it")
                return
            if self._waiting_bytes + len(data) + _OVERHEAD_BYTES > MAX_WAITING_BYTES:
                self._drop(STUCK, "whatever reads the log does not read, or the disk hangs")
                return
            self._waiting_bytes += len(data) + _OVERHEAD_BYTES
        self._lines.put(data)

    def flush(self, within_s: float = FLUSH_S) -> bool:
        """Wait until all queued lines are written or dropped. Returns False if that takes longer than `within_s`."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._lines.put(done)
        return done.wait(within_s)

    def _start(self) -> bool:
        """Start the thread if it does not run yet. Returns whether it runs."""
        if self._thread is None:
            # A daemon, so that the process ends even if a write hangs.
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                return False
            atexit.register(self.flush)
        return True

    def _run(self) -> None:
        next_tick = time.monotonic() + _TICK_S
        while True:
            with contextlib.suppress(Empty):
                self._handle(self._lines.get(timeout=_TICK_S))
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK_S
                self._tell_dropped()
                with contextlib.suppress(Exception):
                    self.on_tick()

    def _handle(self, item: bytes | threading.Event) -> None:
        if isinstance(item, threading.Event):
            item.set()
            return
        if self._tell_dropped():
            self._write(item)
        else:
            self._drop(UNWRITABLE)
        with self._lock:
            self._waiting_bytes -= len(item) + _OVERHEAD_BYTES

    def _tell_dropped(self) -> bool:
        """Report dropped lines, if there are any. False: nothing can be written now."""
        with self._lock:
            dropped, why = self._dropped, self._why
        if not dropped:
            return True
        if not self._write(self._tell(dropped, why).encode() + b"\n", counts=False):
            return False
        with self._lock:
            self._dropped -= dropped
        return True

    def _write(self, data: bytes, *, counts: bool = True) -> bool:
        """Write `data`. Returns whether it was written; if not, and `counts`, counts a dropped line."""
        # A full disk may have cut a line in half: the next one must not continue it.
        left = memoryview(b"\n" + data if self._is_torn else data)
        try:
            while left:
                written = self._write_some(left)
                left = left[written:]
                self._is_torn = bool(left)
        except OSError as error:
            if counts:
                self._drop(UNWRITABLE, f"{type(error).__name__}: {error.strerror}")
            return False
        return True

    def _write_some(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:  # another process that shares the pipe made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()

    def _drop(self, because: str, why: str = "") -> None:
        metrics.LOG_LINES_DROPPED.count(because)
        with self._lock:
            self._dropped += 1
            self._why = why or self._why


class LineStream(io.TextIOBase):
    """A text stream on a sink, in place of sys.stdout or sys.stderr: prints line by line, and never fails."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, sink: LogSink, fd: int = STDERR) -> None:
        self._sink, self._fd, self._begun = sink, fd, ""

    def write(self, text: str) -> int:
        *lines, begun = (self._begun + text).split("\n")
        for line in lines:
            # Suppress any error: the standard library prints where nobody expects one.
            with contextlib.suppress(Exception):
                self._sink.put(line)
        self._begun = begun[-MAX_LINE_BYTES:]
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd


def open_standard_streams() -> None:
    """Open /dev/null on those of the descriptors 0, 1 and 2 that are closed.

    Otherwise the next socket would get such a number, and log lines would go into a connection to PostgreSQL.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(fd)
