"""Fixtures of all tests: a database, a vhost and a Redis of their own, on servers that HEADRACE_TEST_* name.

`./headrace test` starts the servers and sets the variables. A server that is missing is an error, never a skip.
"""

import asyncio
import os
import secrets
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import httpx
import pytest
import redis

from migrations.__main__ import migrate
from stack.develop.suites import ALONE, ONE_BY_ONE
from tests.support.data.redis_names import REDIS_NAMESPACE
from tests.support.data.summaries import pytest_runtest_logreport, pytest_terminal_summary, tell
from tests.support.services.private_redis import private_redis
from tests.support.services.processes import PARALLEL

__all__ = ["pytest_runtest_logreport", "pytest_terminal_summary", "tell"]

_HERE = Path(__file__).parent


# ── what runs beside what


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seed", type=int, default=os.environ.get("HEADRACE_CHAOS_SEED"), help="repeat a run")
    parser.addoption("--minutes", type=float, default=10, help="how long a soak takes")
    parser.addoption("--chaos-record", action="store_true", help="write docs/reliability.json and the table")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what may run beside what, see stack.develop.suites. Tests that share a fixture stay in one process."""
    for item in items:
        file = item.path.relative_to(_HERE)
        suite = file.parts[0]
        if suite in ONE_BY_ONE:
            item.add_marker(ALONE)
        if _shares_fixtures(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(file.as_posix()))


def _shares_fixtures(item: pytest.Item) -> bool:
    found = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    return any(definitions[-1].scope in ("module", "package") for definitions in found if definitions)


@dataclass(frozen=True)
class Servers:
    """The servers of this test run. `database_url` may create databases, `rabbitmq_api` vhosts."""

    database_url: str
    amqp_url: str
    rabbitmq_api: str
    redis_url: str


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Those of the run. In a parallel run each process has a Redis of its own: one cannot be shared, see redis_url."""
    shared = Servers(*map(_from_environment, ("DATABASE_URL", "AMQP_URL", "RABBITMQ_API", "REDIS_URL")))
    if PARALLEL not in os.environ:
        yield shared
        return
    with private_redis(shared.redis_url) as redis_url:
        yield replace(shared, redis_url=redis_url)


def _from_environment(name: str) -> str:
    variable = f"HEADRACE_TEST_{name}"
    if not (value := os.environ.get(variable)):
        pytest.fail(f"{variable} is not set. Run the tests with ./headrace test, which starts servers.", pytrace=False)
    return value


# ── PostgreSQL: one migrated template, a copy of it for each test


@pytest.fixture(scope="session")
def template_database(servers: Servers) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    with migrated_template(servers) as name:
        yield name


@contextmanager
def migrated_template(servers: Servers) -> Iterator[str]:
    name = f"template_{secrets.token_hex(4)}"
    _execute(servers.database_url, f"CREATE DATABASE {name}")
    asyncio.run(migrate(_with_path(servers.database_url, name)))
    yield name
    _execute(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(servers: Servers, template_database: str) -> Iterator[str]:
    """A migrated, empty database of the test's own."""
    with own_database(servers, template_database) as url:
        yield url


@contextmanager
def own_database(servers: Servers, template_database: str) -> Iterator[str]:
    """A copy of the template, for the length of the block. Its URL."""
    name = f"test_{secrets.token_hex(4)}"
    _execute(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield _with_path(servers.database_url, name)
    _execute(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(execute())


# ── RabbitMQ: a vhost for each test


@pytest.fixture
def amqp_url(servers: Servers) -> Iterator[str]:
    """An empty vhost of the test's own. Its name is the URL's path."""
    with own_vhost(servers) as url:
        yield url


# Vhosts that no test needs any more, the oldest first. RabbitMQ deletes them some tests later: if it deletes a quorum
# queue at the moment in which it starts the queue's worker for dead letters, that worker's supervisor dies for good
# (3.10: rabbit_fifo_dlx_sup, reached_max_restart_intensity). No queue starts or moves after that, in any vhost.
_left: defaultdict[str, deque[str]] = defaultdict(deque)
"""By the server's management API."""
_MOST_LEFT = 8


@contextmanager
def own_vhost(servers: Servers) -> Iterator[str]:
    """An empty vhost, for the length of the block. Its URL."""
    name = f"test_{secrets.token_hex(4)}"
    user = urlsplit(servers.amqp_url).username
    with httpx.Client(base_url=servers.rabbitmq_api, timeout=30) as api:
        api.put(f"/api/vhosts/{name}").raise_for_status()
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        api.put(f"/api/permissions/{name}/{user}", json=everything).raise_for_status()
        yield _with_path(servers.amqp_url, name)
        left = _left[servers.rabbitmq_api]
        left.append(name)
        if len(left) > _MOST_LEFT:
            api.delete(f"/api/vhosts/{left.popleft()}").raise_for_status()


# ── Redis: emptied for each test


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty Redis, which the test shares with nobody: the tests of one process run one after the other."""
    return emptied_redis(servers)


def emptied_redis(servers: Servers) -> str:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
    return servers.redis_url


# ── what a service reads


@pytest.fixture(scope="session")
def order_id_key() -> str:
    """A key of order ids: 64 hex digits."""
    return "6b" * 32


@pytest.fixture
def environment(database_url: str, amqp_url: str, redis_url: str, order_id_key: str) -> dict[str, str]:
    """The variables that every service requires. For settings in process: tests.support.services.settings."""
    return environment_of(database_url, amqp_url, redis_url, order_id_key)


def environment_of(database_url: str, amqp_url: str, redis_url: str, order_id_key: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "AMQP_URL": amqp_url,
        "REDIS_URL": redis_url,
        "ORDER_ID_KEY": order_id_key,
        "REDIS_NAMESPACE": REDIS_NAMESPACE,
    }


def _with_path(url: str, path: str) -> str:
    return urlsplit(url)._replace(path=f"/{quote(path, safe='')}").geturl()
