"""A hot standby of the tests' PostgreSQL that can be promoted, for tests of a failover."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg

from stack.process.identity import give, identity_for, wrap
from stack.servers import binaries
from stack.servers.place import minimal_environment
from tests.support.services.processes import free_port
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually


class Standby:
    """A read-only server that follows its primary until it is promoted."""

    def __init__(self, primary_url: str, port: int) -> None:
        self._primary_url, self.port = primary_url, port

    def url(self, primary_url: str) -> str:
        """The same database as `primary_url`, on the standby."""
        parts = urlsplit(primary_url)
        return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}").geturl()

    async def catch_up(self) -> None:
        """Wait until the standby has all commits of the primary."""
        async with connected(self._primary_url) as primary, connected(self.url(self._primary_url)) as standby:
            until = await primary.fetchval("SELECT pg_current_wal_flush_lsn()::text")
            behind = "SELECT pg_last_wal_replay_lsn() < $1::text::pg_lsn"

            async def is_there() -> bool:
                return not await standby.fetchval(behind, until)

            await eventually(is_there, 60)  # a preparation: how fast PostgreSQL replicates is no promise of ours

    async def promote(self) -> None:
        """Make the standby writable. The old primary runs on; its later writes are lost to the new one."""
        async with connected(self.url(self._primary_url)) as standby:
            assert await standby.fetchval("SELECT pg_promote()")


@asynccontextmanager
async def standby_of(primary_url: str) -> AsyncIterator[Standby]:
    """Run a standby for the block. Takes seconds, because it copies the primary. `primary_url`: of a superuser."""
    directory, identity = Path(tempfile.mkdtemp(prefix="headrace-standby-")), identity_for("postgres")
    give(directory, identity)
    binary = binaries.find("postgres")
    assert binary is not None
    port, parts = free_port(), urlsplit(primary_url)
    environment = minimal_environment(PGPASSWORD=unquote(parts.password or ""))
    data = str(directory / "data")
    await _run(
        *wrap([str(binary.path / "pg_basebackup"), "-D", data, "-R", "-c", "fast", "-X", "stream"], identity),
        *("-h", parts.hostname or "", "-p", str(parts.port), "-U", parts.username or ""),
        environment=environment,
    )
    settings = [f"--port={port}", "--listen_addresses=127.0.0.1", "--unix_socket_directories=", "--max_connections=100"]
    server = await asyncio.create_subprocess_exec(
        *wrap([str(binary.path / "postgres"), "-D", data, *settings], identity, signal.SIGQUIT),
        env=environment,
        cwd="/",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    standby = Standby(primary_url, port)
    try:
        await eventually(lambda: _answers(standby.url(primary_url)), 60)
        yield standby
    finally:
        if server.returncode is None:
            os.kill(server.pid, signal.SIGQUIT)
        await server.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _run(*command: str, environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd="/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def _answers(url: str) -> bool:
    try:
        async with connected(url):
            return True
    except (OSError, asyncpg.CannotConnectNowError):
        return False
