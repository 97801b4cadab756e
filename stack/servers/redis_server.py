"""Runs a private Redis, purely as a cache. Permissions: see redis_users."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from redis.asyncio import Redis

from stack.process.child import Spec
from stack.process.ports import LOOPBACK
from stack.servers.place import Place, minimal_environment

DEFAULT_PORT = 16379

# Redis is never the authority for anything, so nothing is written to disk. When memory is full, Redis evicts the keys
# that expire first: cached products (a minute), then the oldest idempotency keys (a day), whose orders are long stored.
# `allkeys-lru` would evict the newest idempotency keys in favour of popular products. ingest_api notices each eviction,
# and asks PostgreSQL. The containers use this configuration too.
CACHE_CONFIGURATION = """\
requirepass {password}
dir "{directory}"
save ""
appendonly no
maxmemory 256mb
maxmemory-policy volatile-ttl
"""
CONFIGURATION = """\
bind {host}
port {port}
daemonize no
logfile ""
"""


def url(port: int, password: str) -> str:
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


def configure_cache(password: str, directory: str, users: Iterable[str]) -> str:
    """The configuration, also for containers. `password`: of the operator's user, `default`. `users`: redis_users'."""
    text = CACHE_CONFIGURATION.format(password=password, directory=directory)
    return text + "".join(f"user {user}\n" for user in users)


def spec(place: Place, port: int, password: str, users: Iterable[str]) -> Spec:
    """`password`: the operator's. `users`: see redis_users."""
    text = CONFIGURATION.format(host=LOOPBACK, port=port) + configure_cache(password, str(place.directory), users)
    return Spec(
        name="redis",
        argv=[str(place.binary.path), str(place.write("redis.conf", text))],
        log=place.log,
        probe=lambda: probe(url(port, password)),
        env=minimal_environment(),
        cwd=place.directory,  # by which a later run recognises it, see leftovers
        identity=place.identity,
        start_timeout_s=20,
        stop_grace_s=5,
        death_signal=signal.SIGKILL,
    )


async def probe(address: str) -> None:
    async with Redis.from_url(address, socket_timeout=4) as redis:
        await redis.ping()
