"""The account that each service has on the servers of `up` and of Compose: its name, its password, its address.

The passwords follow from the stack's own secrets, which no service is told. A server that the environment names is used
as it is given: by all services, with the one account of its address.
"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from migrations.privileges import GRANTS, OWNER, role_name
from stack.home.credentials import Credentials, derived
from stack.servers.broker_users import RIGHTS
from stack.servers.redis_users import RIGHTS as REDIS_RIGHTS
from stack.servers.redis_users import user_name


def database_passwords(credentials: Credentials) -> dict[str, str]:
    """Of the owner of the schema, and of each role in GRANTS."""
    return {role: derived(credentials.postgres, f"postgres {role}") for role in (OWNER, *GRANTS)}


def broker_passwords(credentials: Credentials) -> dict[str, str]:
    """Of each user in RIGHTS."""
    return {user: derived(credentials.rabbitmq, f"rabbitmq {user}") for user in RIGHTS}


def database_urls(admin_url: str, credentials: Credentials) -> dict[str, str]:
    """`admin_url`, as each role has it."""
    database = urlsplit(admin_url).path.removeprefix("/")
    passwords = database_passwords(credentials)
    return {role: _as(admin_url, role_name(database, role), password) for role, password in passwords.items()}


def broker_urls(admin_urls: str, credentials: Credentials) -> dict[str, str]:
    """`admin_urls`, of one node or of several with commas between, as each user has them."""
    return {
        user: ",".join(_as(url, user, password) for url in admin_urls.split(","))
        for user, password in broker_passwords(credentials).items()
    }


def redis_passwords(credentials: Credentials) -> dict[str, str]:
    """Of the user of each service."""
    return {service: derived(credentials.redis, f"redis {service}") for service in REDIS_RIGHTS}


def redis_urls(admin_url: str, credentials: Credentials, namespace: str) -> dict[str, str]:
    """`admin_url`, as each service has it. `namespace`: what its keys begin with."""
    return {
        service: _as(admin_url, user_name(namespace, service), password)
        for service, password in redis_passwords(credentials).items()
    }


def _as(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))
