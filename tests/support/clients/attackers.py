"""Clients that take more than their share. They run in a process of their own, so that they do not slow the test.

python -m tests.support.clients.attackers NAME URL CONNECTIONS SECONDS [ARGUMENT ...]

Prints the number of answers by status.
"""

import asyncio
import contextlib
import os
import resource
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec

from tests.support.clients.raw_http import RawClient

Requests = Iterator[bytes]

CLOSED = "closed"
"""Counted instead of a status: the connection ended without an answer."""


# How fast half_open opens its first connections.
_AT_FIRST_PER_S = 1_500
# Time for the first connections, on a slow machine.
_AT_FIRST_S = 30.0
_MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def unknown_bulks(per_bulk: str = "1000") -> Requests:
    """Bulk requests for products that do not exist, with new ids each time."""
    while True:
        # Cheap to make: the attacker shares the cores with its target.
        ids = (os.urandom(16).hex() for _ in range(int(per_bulk)))
        orders = (
            f'{{"productId":"{it[:8]}-{it[8:12]}-4{it[13:16]}-a{it[17:20]}-{it[20:]}","quantity":1}}' for it in ids
        )
        yield _post("/api/v1/orders/bulk", f"[{','.join(orders)}]".encode())


def gets(path: str, token: str = "") -> Requests:
    """The same GET again and again. `token`: of an API key."""
    key = f"Authorization: Bearer {token}\r\n" if token else ""
    while True:
        yield f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{key}\r\n".encode()


ATTACKS: dict[str, Callable[..., Requests]] = {"unknown_bulks": unknown_bulks, "gets": gets}


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


# ── I/O below


class Attack:
    """An attack that runs in its own process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.answers: Counter[str] = Counter()
        """Answers by status, after the end; CLOSED for connections that ended without one."""

    async def ended(self) -> None:
        output, _ = await self._process.communicate()
        assert self._process.returncode == 0
        self.answers = Counter(msgspec.json.decode(output, type=dict[str, int]))


@asynccontextmanager
async def attacking(name: str, url: str, *arguments: str, connections: int, seconds: float) -> AsyncIterator[Attack]:
    """Attack over `connections` connections, each of which sends its next request once it is answered.

    Leaving the block waits for the end of the attack.
    """
    command = ("-m", "tests.support.clients.attackers", name, url, str(connections), str(seconds), *arguments)
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    attack = Attack(process)
    try:
        yield attack
        await attack.ended()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _attack(url: str, requests: list[Requests], seconds: float) -> Counter[str]:
    answers: Counter[str] = Counter()
    until = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(_repeat(url, it, until, answers) for it in requests))
    return answers


async def _repeat(url: str, requests: Requests, until: float, answers: Counter[str]) -> None:
    while time.monotonic() < until:
        client = None
        try:
            client = await RawClient.connect(url)
            for request in requests:
                await client.send_all(request)
                answers[str((await client.answer())[0])] += 1
        except (OSError, asyncio.IncompleteReadError):
            answers[CLOSED] += 1
            await asyncio.sleep(0.05)  # a pace; no test waits for this
        finally:
            if client is not None:
                client.close()


def _half_open(url: str, connections: int, seconds: float, per_s: str) -> Counter[str]:
    """Hold connections that sent half a head. Opens `connections` as fast as the service takes them.

    Then opens `per_s` new ones a second for `seconds`, each in place of the oldest. Uses plain sockets, one after the
    other, which is cheaper than an event loop.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(connections + 1_000, _MOST_FILES), _MOST_FILES))
    address, answers = urlsplit(url), Counter[str]()
    sockets: deque[socket.socket] = deque()
    due, until = time.monotonic(), time.monotonic() + _AT_FIRST_S
    while time.monotonic() < until:
        time.sleep(max(0.0, due - time.monotonic()))
        is_full = len(sockets) == connections
        due += 1 / (float(per_s) if is_full else _AT_FIRST_PER_S)
        if is_full:
            sockets.popleft().close()
        elif len(sockets) == connections - 1:
            until = time.monotonic() + seconds
        try:
            opened = socket.create_connection((address.hostname, address.port), timeout=1)
            opened.sendall(b"POST /api/v1/orders HTTP/1.1\r\nHost: local")
            sockets.append(opened)
            answers["opened"] += 1
        except OSError:
            answers[CLOSED] += 1
    return answers


if __name__ == "__main__":
    name, url, connections, seconds, *arguments = sys.argv[1:]
    if name == "half_open":
        sys.stdout.buffer.write(msgspec.json.encode(_half_open(url, int(connections), float(seconds), *arguments)))
        sys.exit()
    many = [ATTACKS[name](*arguments) for _ in range(int(connections))]
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_attack(url, many, float(seconds)))))
