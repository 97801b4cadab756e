"""A Redis for one process of a parallel test run. Tests empty it, fill it, and change its settings."""

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

import redis

from stack.process.identity import give, identity_for, wrap
from stack.servers import binaries
from stack.servers.place import minimal_environment
from stack.servers.redis_server import CONFIGURATION, configure_cache, url
from tests.support.services.processes import free_port
from tests.support.time.conditions import eventually

_START_TIMEOUT_S = 20


@contextmanager
def private_redis(shared_url: str) -> Iterator[str]:
    """The URL of an empty Redis, which is gone at the end of the block. It has the password of `shared_url`."""
    binary = binaries.find("redis")
    assert binary is not None, "no redis-server. Run the tests with ./headrace test, which installs it."
    identity, password, port = identity_for("redis"), unquote(urlsplit(shared_url).password or ""), free_port()
    with TemporaryDirectory(prefix="headrace-redis-") as name:
        directory = Path(name)
        text = CONFIGURATION.format(host="127.0.0.1", port=port) + configure_cache(password, name, ())
        (directory / "redis.conf").write_text(text)
        for path in (directory, directory / "redis.conf"):
            give(path, identity)
        server = subprocess.Popen(
            wrap([str(binary.path), str(directory / "redis.conf")], identity, signal.SIGKILL),
            stdout=subprocess.DEVNULL,
            env=minimal_environment(),
            cwd="/",
        )
        try:
            asyncio.run(eventually(lambda: _answers(url(port, password)), _START_TIMEOUT_S))
            yield url(port, password)
        finally:
            server.kill()
            server.wait()


def _answers(address: str) -> bool:
    with redis.Redis.from_url(address) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
