"""The three private servers of a benchmark, and what a deployment gets on them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
from redis.asyncio import Redis

from benchmarks.processes import Parts
from benchmarks.run.accounting import Connection
from migrations.__main__ import migrate
from stack.home import state as states
from stack.home.directory import Home
from stack.supervisor.launch import launch, read_private_servers, wait_ready

TEMPLATE = "bench_template"
SERVERS = ("postgres", "rabbitmq", "redis")
PRODUCTS = 10_000
# No load orders all of it.
STOCK = 1_000_000_000
_API_TIMEOUT_S = 30
# Without proxies: a proxy of the environment has no business on the loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_SEED = f"""
    INSERT INTO products (id, name, price, qty)
    SELECT gen_random_uuid(), 'product ' || n, 1 + n % 100, {STOCK} FROM generate_series(1, {PRODUCTS}) AS n;
    INSERT INTO stock_adjustments (product_id, delta, reason) SELECT id, qty, 'creation' FROM products
"""


@dataclass(frozen=True)
class Servers:
    """URLs of instances that belong to this run; `database_url` is a superuser's. `pids`: by server."""

    database_url: str
    amqp_url: str
    rabbitmq_api: str
    redis_url: str
    pids: dict[str, int]
    directory: Path
    """On the disk that they use."""

    def watched(self) -> Parts:
        return Parts({name: [pid] for name, pid in self.pids.items()})

    def database(self, name: str) -> str:
        return with_path(self.database_url, name)

    async def connect(self, url: str) -> Connection:
        return await asyncpg.connect(url, server_settings={"application_name": "benchmarks", "jit": "off"})

    async def execute(self, *statements: str) -> None:
        """As the superuser, in the database postgres."""
        connection = await self.connect(self.database_url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def databases(self) -> list[str]:
        connection = await self.connect(self.database_url)
        try:
            return [row[0] for row in await connection.fetch("SELECT datname FROM pg_database")]
        finally:
            await connection.close()

    async def empty_redis(self) -> None:
        async with Redis.from_url(self.redis_url) as redis:
            await redis.flushall()


def with_path(url: str, path: str) -> str:
    return urlsplit(url)._replace(path=f"/{quote(path, safe='')}").geturl()


@contextlib.contextmanager
def private_servers(directory: Path) -> Iterator[Servers]:
    """Started in `directory`, which is made and removed; gone when the block is left, or when we are killed.

    Raises HeadraceError when one of them does not start.
    """
    launched = launch("servers", Home(directory))
    try:
        wait_ready(launched)
        found, parts = read_private_servers(launched.home), states.load(launched.home).parts
        pids = {name: pid for name in SERVERS if (pid := parts[name].pid)}
        yield Servers(found.database_url, found.amqp_url, found.rabbitmq_api, found.redis_url, pids, directory)
    finally:
        launched.close()


async def make_template(servers: Servers) -> None:
    """A migrated database with the products that all loads order from, for every deployment to copy."""
    await servers.execute(f"CREATE DATABASE {TEMPLATE}")
    await migrate(servers.database(TEMPLATE))
    await _seed(servers, TEMPLATE)


async def template_of(servers: Servers, checkout: Path | None) -> str:
    """The name of the template for the release in `checkout`, made by its own migrations the first time.

    None: of this release, whose template is there. Raises OSError if the migrations fail.
    """
    if checkout is None:
        return TEMPLATE
    name = f"{TEMPLATE}_{hashlib.sha256(bytes(checkout)).hexdigest()[:8]}"
    if name not in await servers.databases():
        await servers.execute(f"CREATE DATABASE {name}")
        await _migrate_there(servers.database(name), checkout)
        await _seed(servers, name)
    return name


async def _migrate_there(database_url: str, checkout: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "migrations"),
        cwd=checkout,
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise OSError(f"the migrations of the other checkout ended with {process.returncode}: {output.decode()[-500:]}")


async def _seed(servers: Servers, name: str) -> None:
    connection = await servers.connect(servers.database(name))
    try:
        await connection.execute(_SEED)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def make_database(servers: Servers, name: str, template: str = TEMPLATE) -> AsyncIterator[str]:
    """A copy of the template for the length of the block. Its URL."""
    await servers.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield servers.database(name)
    finally:
        await servers.execute(f"DROP DATABASE {name} WITH (FORCE)", "CHECKPOINT")


@contextlib.contextmanager
def make_vhost(servers: Servers, name: str) -> Iterator[str]:
    """An empty vhost for the length of the block. Its URL."""
    user = urlsplit(servers.amqp_url).username
    _call(servers, "PUT", f"vhosts/{name}")
    try:
        _call(servers, "PUT", f"permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        yield with_path(servers.amqp_url, name)
    finally:
        _call(servers, "DELETE", f"vhosts/{name}")


def _call(servers: Servers, method: str, path: str, body: object = None) -> None:
    """One call to RabbitMQ's management API. Raises OSError."""
    parts = urlsplit(servers.rabbitmq_api)
    credentials = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    request = urllib.request.Request(
        f"http://{parts.hostname}:{parts.port}/api/{path}",
        json.dumps(body or {}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {credentials}"},
        method=method,
    )
    with _opener.open(request, timeout=_API_TIMEOUT_S):
        return


async def products_of(connection: Connection, count: int) -> list[str]:
    """The ids of the first `count` products, the same in every copy of the template."""
    return [row[0] for row in await connection.fetch("SELECT id::text FROM products ORDER BY id LIMIT $1", count)]
