"""Each service's account on the servers of `up` and of Compose: name, password, URL.

The passwords derive from the stack's secrets, which no service knows. A server that the environment names is used as it
is: all services share the account of its URL.
"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from migrations.privileges import GRANTS, OWNER, role_name
from stack.home.credentials import Credentials, derived
from stack.servers.broker_users import RIGHTS
from stack.servers.redis_users import RIGHTS as REDIS_RIGHTS
from stack.servers.redis_users import user_name


def database_passwords(credentials: Credentials) -> dict[str, str]:
    """Role → password, for the schema's owner and each role in GRANTS."""
    return {role: derived(credentials.postgres, f"postgres {role}") for role in (OWNER, *GRANTS)}


def broker_passwords(credentials: Credentials) -> dict[str, str]:
    """User → password, for each user in RIGHTS."""
    return {user: derived(credentials.rabbitmq, f"rabbitmq {user}") for user in RIGHTS}


def database_urls(admin_url: str, credentials: Credentials) -> dict[str, str]:
    """Role → URL. `admin_url`: the administrator's."""
    database = urlsplit(admin_url).path.removeprefix("/")
    passwords = database_passwords(credentials)
    return {role: _as(admin_url, role_name(database, role), password) for role, password in passwords.items()}


def broker_urls(admin_urls: str, credentials: Credentials) -> dict[str, str]:
    """User → URL. `admin_urls`: the administrator's, of one node or several, separated by commas."""
    return {
        user: ",".join(_as(url, user, password) for url in admin_urls.split(","))
        for user, password in broker_passwords(credentials).items()
    }


def redis_passwords(credentials: Credentials) -> dict[str, str]:
    """Service → password of its Redis user."""
    return {service: derived(credentials.redis, f"redis {service}") for service in REDIS_RIGHTS}


def redis_urls(admin_url: str, credentials: Credentials, namespace: str) -> dict[str, str]:
    """Service → URL. `admin_url`: the administrator's. `namespace`: the prefix of keys."""
    return {
        service: _as(admin_url, user_name(namespace, service), password)
        for service, password in redis_passwords(credentials).items()
    }


def _as(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))
