"""Builds hostile requests, and measures the memory of the process that gets them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.support.services.processes import Service

MIB = 1024**2
GIB = 1024**3

CL, TE = b"Content-Length: %d", b"Transfer-Encoding: chunked"


def order_of(product: str, quantity: int = 1, *headers: bytes) -> bytes:
    """A complete order request."""
    content = msgspec.json.encode({"productId": product, "quantity": quantity})
    return head(b"Content-Length: %d" % len(content), *headers) + content


def head(
    *headers: bytes, line: bytes = b"POST /api/v1/orders HTTP/1.1", host: tuple[bytes, ...] = (b"Host: localhost",)
) -> bytes:
    """A request head. `host`: its Host lines."""
    return b"\r\n".join([line, *host, b"Content-Type: application/json", *headers]) + b"\r\n\r\n"


@contextmanager
def memory_of(service: Service) -> Iterator[Callable[[], int]]:
    """Yields a function: by how many bytes the process's peak memory has grown."""
    process = Path("/proc") / str(service.process.pid)
    (process / "clear_refs").write_text("5")  # resets the high-water mark
    before = _peak_bytes(process)
    yield lambda: _peak_bytes(process) - before


def _peak_bytes(process: Path) -> int:
    line = next(it for it in (process / "status").read_text().splitlines() if it.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
