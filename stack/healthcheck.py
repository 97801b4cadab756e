"""Exit 0 when the service in this container is ready: what the image's HEALTHCHECK runs.

With the standard library's sockets alone: it runs every few seconds, and anything that speaks HTTP would take ten times
the CPU to import.
"""

import os
import socket
import sys


def main() -> int:
    port = int(os.environ.get("HEALTH_PORT") or 8080)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError as error:
        print(f"no answer on port {port}: {error}")
        return 1
    # Shown by `docker inspect`: which part is missing.
    print(answer.partition(b"\r\n\r\n")[2].decode(errors="replace"))
    return 0 if answer.startswith(b"HTTP/1.1 200 ") else 1


if __name__ == "__main__":
    sys.exit(main())
