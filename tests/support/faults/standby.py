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

from database.connection import Connection
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
    port, data = free_port(), str(directory / "data")
    standby = Standby(primary_url, port)
    try:
        async with _slot(primary_url, f"standby_{port}") as slot:
            await _copy(primary_url, wrap([str(binary.path / "pg_basebackup"), "-D", data, "-S", slot], identity))
            settings = [f"--port={port}", "--listen_addresses=127.0.0.1", "--unix_socket_directories="]
            command = [str(binary.path / "postgres"), "-D", data, *settings, "--max_connections=100"]
            async with _server(wrap(command, identity, signal.SIGQUIT)):
                await eventually(lambda: _answers(standby.url(primary_url)), 60)
                yield standby
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def _slot(primary_url: str, name: str) -> AsyncIterator[str]:
    """A slot in which the primary keeps WAL for the standby. Each DROP DATABASE of another test is a checkpoint, which
    removes WAL that no slot holds. A standby that needs it would never catch up.
    """
    async with connected(primary_url) as primary:
        await primary.execute("SELECT pg_create_physical_replication_slot($1, true)", name)
        try:
            yield name
        finally:
            await eventually(lambda: _is_dropped(primary, name))


async def _is_dropped(primary: Connection, slot: str) -> bool:
    try:
        await primary.execute("SELECT pg_drop_replication_slot($1)", slot)
    except asyncpg.ObjectInUseError:  # the primary has not noticed that the standby is gone
        return False
    return True


async def _copy(primary_url: str, backup: list[str]) -> None:
    """`backup`: pg_basebackup, with where it writes."""
    parts = urlsplit(primary_url)
    process = await asyncio.create_subprocess_exec(
        *backup,
        *("-R", "-c", "fast", "-X", "stream", "-h", parts.hostname or "", "-p", str(parts.port)),
        *("-U", parts.username or ""),
        env=minimal_environment(PGPASSWORD=unquote(parts.password or "")),
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@asynccontextmanager
async def _server(command: list[str]) -> AsyncIterator[None]:
    server = await asyncio.create_subprocess_exec(
        *command,
        env=minimal_environment(),
        cwd="/",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        if server.returncode is None:
            os.kill(server.pid, signal.SIGQUIT)
        await server.wait()


async def _answers(url: str) -> bool:
    try:
        async with connected(url):
            return True
    except (OSError, asyncpg.CannotConnectNowError):
        return False
