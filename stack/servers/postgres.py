"""Runs a private PostgreSQL: durable, on the loopback address, with passwords."""

from __future__ import annotations

import asyncio
import signal

import asyncpg

from stack.errors import HeadraceError
from stack.process.child import Spec
from stack.process.identity import wrap
from stack.process.logfile import open_log
from stack.process.ports import LOOPBACK
from stack.servers.binaries import major
from stack.servers.leftovers import free_data
from stack.servers.place import Place, minimal_environment, remove_tree

USER = "headrace"
DATABASE = "headrace"
DEFAULT_PORT = 15432

# Durability (fsync, synchronous_commit, full_page_writes) keeps its safe defaults.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    # No Unix socket: TCP with a password is the only way in, and a deep path would not fit into a socket's 107 bytes.
    "unix_socket_directories": "",
    # The default 128 MB is from 2005; the tables of a demo and their indexes fit into this.
    "shared_buffers": "256MB",
    # Checkpoints by time, not in the middle of a load: at 4,000 orders/s the WAL fills the default 1 GB in minutes.
    "max_wal_size": "2GB",
    # The services hold about 30 connections; tests and a curious psql take the rest.
    "max_connections": "100",
    # Log a statement that waits for a lock.
    "log_lock_waits": "on",
}


def url(port: int, password: str, database: str = DATABASE) -> str:
    return f"postgresql://{USER}:{password}@{LOOPBACK}:{port}/{database}"


async def prepare(place: Place, password: str) -> None:
    """Create the data directory if needed. Raises HeadraceError if another major version wrote it."""
    data = place.directory / "data"
    if not data.exists():
        await _initdb(place, password)
    version = (data / "PG_VERSION").read_text().strip()
    if version != str(major(place.binary.version)):
        raise HeadraceError(
            f"PostgreSQL {place.binary.version} cannot read the data in {data}",
            f"PostgreSQL {version} wrote it",
            f"apt-get install postgresql-{version}, or delete all data and start afresh: ./headrace down --purge",
        )


async def _initdb(place: Place, password: str) -> None:
    # Created under another name, then renamed: a directory named `data` is always complete.
    unfinished = place.directory / "data.unfinished"
    remove_tree(unfinished)
    password_file = place.write("password", password + "\n")
    with open_log(place.log) as output:
        initdb = await asyncio.create_subprocess_exec(
            *wrap(_initdb_command(place, str(unfinished), str(password_file)), place.identity, signal.SIGKILL),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=minimal_environment(),
            cwd="/",
            start_new_session=True,
        )
        try:
            code = await initdb.wait()
        finally:
            password_file.unlink()
    if code != 0:
        cause = "the disk is full, or the server's user cannot write the directory"
        raise HeadraceError(
            f"initdb ended with exit code {code}",
            cause,
            "read the log, then: ./headrace doctor",
            str(place.log),
        )
    unfinished.rename(place.directory / "data")


def _initdb_command(place: Place, data: str, password_file: str) -> list[str]:
    return [
        *(str(place.binary.path / "initdb"), "--pgdata", data, "--username", USER, "--pwfile", password_file),
        *("--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"),
    ]


def spec(place: Place, port: int, password: str) -> Spec:
    settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": str(port)}.items()]
    return Spec(
        name="postgres",
        argv=[str(place.binary.path / "postgres"), "-D", str(place.directory / "data"), *settings],
        log=place.log,
        probe=lambda: probe(url(port, password, "postgres")),
        env=minimal_environment(),
        before=lambda: free_data(place),
        identity=place.identity,
        # After a crash, replaying the WAL may take minutes; the log says so.
        start_timeout_s=120,
        stop_signal=signal.SIGINT,  # "fast": roll back, checkpoint, end
        stop_grace_s=20,
        death_signal=signal.SIGQUIT,  # "immediate": take the backends along
    )


async def probe(address: str) -> None:
    """Connect and authenticate once. Raises if the server is not ready."""
    connection = await asyncpg.connect(address, timeout=4)
    await connection.close()


async def create_database(address: str, name: str = DATABASE) -> None:
    connection = await asyncpg.connect(address)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
