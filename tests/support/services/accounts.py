"""The services' accounts of a deployment, on a test's own database, vhost and Redis."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from redis.asyncio import Redis

from migrations.__main__ import migrate
from migrations.privileges import OWNER, provision
from stack.home.credentials import Credentials, generate
from stack.servers import redis_users
from stack.servers.accounts import (
    broker_passwords,
    broker_urls,
    database_passwords,
    database_urls,
    redis_passwords,
    redis_urls,
)
from stack.servers.broker_users import RIGHTS, definitions
from tests.support.data.redis_names import REDIS_NAMESPACE
from tests.support.services.ingest import vhost_of

# Roles and users belong to the server, and have the same names in every test: one test at a time makes them.
ONE_AT_A_TIME = pytest.mark.xdist_group("accounts")


@dataclass(frozen=True)
class Accounts:
    """URLs by account: roles of PostgreSQL, users of RabbitMQ, services in Redis."""

    databases: Mapping[str, str]
    brokers: Mapping[str, str]
    caches: Mapping[str, str]

    def own(self) -> dict[str, dict[str, str]]:
        """The variables that differ for each service."""
        return {
            name: {"DATABASE_URL": self.databases[name], "AMQP_URL": self.brokers[name], "REDIS_URL": cache}
            for name, cache in self.caches.items()
        }


@asynccontextmanager
async def accounts(database_url: str, amqp_url: str, rabbitmq_api: str, redis_url: str) -> AsyncIterator[Accounts]:
    """Create the accounts for the block, from an administrator's URLs. Deletes the users in RabbitMQ and Redis."""
    credentials: Credentials = generate()
    await provision(database_url, database_passwords(credentials))
    databases = database_urls(database_url, credentials)
    await migrate(databases[OWNER])
    async with (
        redis_users_in(redis_url, credentials) as caches,
        httpx.AsyncClient(base_url=rabbitmq_api, timeout=30) as api,
    ):
        users = json.loads(definitions(broker_passwords(credentials), vhost_of(amqp_url)))
        (await api.post("/api/definitions", json=users)).raise_for_status()
        yield Accounts(databases, broker_urls(amqp_url, credentials), caches)
        for user in RIGHTS:
            (await api.delete(f"/api/users/{user}")).raise_for_status()


@asynccontextmanager
async def redis_users_in(redis_url: str, credentials: Credentials) -> AsyncIterator[Mapping[str, str]]:
    """Create a Redis user for each service in the tests' namespace. Yields service → URL."""
    async with Redis.from_url(redis_url) as admin:
        await set_users(admin, redis_users.definitions(redis_passwords(credentials), REDIS_NAMESPACE))
        await admin.acl_log_reset()
        try:
            yield redis_urls(redis_url, credentials, REDIS_NAMESPACE)
        finally:
            await admin.acl_deluser(*(redis_users.user_name(REDIS_NAMESPACE, it) for it in redis_users.RIGHTS))


async def set_users(admin: Redis, lines: Iterable[str]) -> None:
    """Run ACL SETUSER for lines of redis_users.definitions."""
    for line in lines:
        await admin.execute_command("ACL", "SETUSER", *line.split())  # type: ignore[no-untyped-call]


async def refusals(admin: Redis) -> list[str]:
    """The commands and keys that Redis has refused since its ACL log was reset."""
    entries = await admin.acl_log()
    return [str(entry["object"]) for entry in entries if entry["reason"] in ("command", "key", "channel")]
