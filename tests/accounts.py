"""The accounts that services have in a deployment, on a test's own database and vhost."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from migrations.__main__ import migrate
from migrations.privileges import OWNER, provision
from stack.broker_users import RIGHTS, definitions
from stack.credentials import Credentials, generate
from stack.service_accounts import broker_passwords, broker_urls, database_passwords, database_urls
from tests.ingest import vhost_of


@dataclass(frozen=True)
class Accounts:
    """Addresses: of each role of PostgreSQL, and of each user of RabbitMQ."""

    databases: Mapping[str, str]
    brokers: Mapping[str, str]

    def own(self) -> dict[str, dict[str, str]]:
        """What is different in each service's environment."""
        names = self.databases.keys() & self.brokers.keys()
        return {name: {"DATABASE_URL": self.databases[name], "AMQP_URL": self.brokers[name]} for name in names}


@asynccontextmanager
async def accounts(database_url: str, amqp_url: str, rabbitmq_api: str) -> AsyncIterator[Accounts]:
    """`database_url`, `amqp_url`: an administrator's. The users of RabbitMQ are gone at the end."""
    credentials: Credentials = generate()
    await provision(database_url, database_passwords(credentials))
    databases = database_urls(database_url, credentials)
    await migrate(databases[OWNER])
    async with httpx.AsyncClient(base_url=rabbitmq_api, timeout=30) as api:
        users = json.loads(definitions(broker_passwords(credentials), vhost_of(amqp_url)))
        (await api.post("/api/definitions", json=users)).raise_for_status()
        yield Accounts(databases, broker_urls(amqp_url, credentials))
        for user in RIGHTS:
            (await api.delete(f"/api/users/{user}")).raise_for_status()
