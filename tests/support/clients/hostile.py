"""What clients that mean harm send, and what the process that they send it to holds meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.support.services.processes import Service

MIB = 1024**2
GIB = 1024**3

CL, TE = b"Content-Length: %d", b"Transfer-Encoding: chunked"


def order_of(product: str, quantity: int = 1, *headers: bytes) -> bytes:
    """A whole request."""
    content = msgspec.json.encode({"productId": product, "quantity": quantity})
    return head(b"Content-Length: %d" % len(content), *headers) + content


def head(
    *headers: bytes, line: bytes = b"POST /api/v1/orders HTTP/1.1", host: tuple[bytes, ...] = (b"Host: localhost",)
) -> bytes:
    """A request's head. `host`: its Host lines."""
    return b"\r\n".join([line, *host, b"Content-Type: application/json", *headers]) + b"\r\n\r\n"


@contextmanager
def memory_of(service: Service) -> Iterator[Callable[[], int]]:
    """By how many bytes the most that the process has held has grown since."""
    process = Path("/proc") / str(service.process.pid)
    (process / "clear_refs").write_text("5")  # the high-water mark begins anew
    before = _peak_bytes(process)
    yield lambda: _peak_bytes(process) - before


def _peak_bytes(process: Path) -> int:
    line = next(it for it in (process / "status").read_text().splitlines() if it.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
