"""The image's HEALTHCHECK: exits 0 if the service in this container is ready.

With the path of a page, prints the page, and exits 0 if its status is 200.

Uses only the standard library's sockets: it runs every few seconds, and importing an HTTP library would take ten times
the CPU.
"""

import os
import socket
import sys


def main() -> int:
    port = int(os.environ.get("HEALTH_PORT") or 9103)
    try:
        if len(sys.argv) > 1:
            head, _, page = _ask(port, sys.argv[1]).partition(b"\r\n\r\n")
            print(page.decode(errors="replace"))
            return 0 if head.startswith(b"HTTP/1.1 200 ") else 1
        is_ready = _ask(port, "/readyz").startswith(b"HTTP/1.1 200 ")
        # `docker inspect` shows this output: it says which part is not ready.
        print(_ask(port, "/health").partition(b"\r\n\r\n")[2].decode(errors="replace"))
    except OSError as error:
        print(f"no answer on port {port}: {error}")
        return 1
    return 0 if is_ready else 1


def _ask(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=1.5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))


if __name__ == "__main__":
    sys.exit(main())
