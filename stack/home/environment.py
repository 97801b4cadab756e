"""Reads the environment: external servers, ports, and a stack that runs elsewhere."""

from __future__ import annotations

import os
import re

from pipeline.process.addresses import BadAddress, check_brokers, check_database, check_redis
from pipeline.process.settings import NAMESPACE_PATTERN
from pipeline.process.variables import WrongSettings, read_variables
from stack.errors import HeadraceError
from stack.home.credentials import Credentials, namespace_of

VARIABLES = {"postgres": "DATABASE_URL", "rabbitmq": "AMQP_URL", "redis": "REDIS_URL"}
_CHECKS = {"postgres": check_database, "rabbitmq": check_brokers, "redis": check_redis}
GOOD_URLS = {
    "postgres": "postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    "rabbitmq": "amqp://USER:PASSWORD@HOST:5672/%2F",
    "redis": "redis://:PASSWORD@HOST:6379/0",
}
# The defaults in the services' settings.py. The stack imports no service, so a unit test compares them.
SERVICE_PORTS = {
    "ingest_api": 8080,
    "persist_worker": 9101,
    "product_consumer": 9102,
    "product_api": 3000,
    "event_relay": 9105,
}
# The APIs' ports for probes. A worker serves health pages alone, on the port above.
HEALTH_PORTS = {"ingest_api": 9103, "product_api": 9104}


def external_urls() -> dict[str, str]:
    """Server → URL, for servers that the environment names. Raises HeadraceError for an invalid URL."""
    urls = {server: url for server, name in VARIABLES.items() if (url := _secret(name))}
    for server, url in urls.items():
        name = VARIABLES[server]
        check_url(server, name, url, f"correct {name}, or `unset {name}` for a private instance")
    return urls


def named_stack() -> dict[str, str] | None:
    """`ingest_api`, `product_api`, `database` and `broker` → URL, of a stack that the environment names; else None.

    The containers of docker-compose.yml set these variables. Raises HeadraceError if some are missing.
    """
    names = {"ingest_api": "INGEST_API_URL", "product_api": "PRODUCT_API_URL"}
    urls = {service: os.environ[name] for service, name in names.items() if os.environ.get(name)}
    if not urls:
        return None
    servers = external_urls()
    missing = [name for service, name in names.items() if service not in urls]
    missing += [VARIABLES[server] for server in ("postgres", "rabbitmq") if server not in servers]
    if missing:
        raise HeadraceError(
            f"the environment names a stack without {' and '.join(missing)}",
            "INGEST_API_URL and PRODUCT_API_URL name its APIs, DATABASE_URL and AMQP_URL its servers",
            "set all four, or none",
        )
    return {**urls, "database": servers["postgres"], "broker": servers["rabbitmq"]}


def order_ids(credentials: Credentials) -> dict[str, str]:
    """The variables about order ids that `up` sets for the services; none if the environment has ORDER_ID_KEY."""
    return {} if os.environ.get("ORDER_ID_KEY") else credentials.order_ids


def redis_namespace(credentials: Credentials) -> str:
    """The prefix of keys in Redis, as the services will derive it. Raises HeadraceError if they would refuse it."""
    told = order_ids(credentials)
    keys = told.get("ORDER_ID_KEY") or os.environ["ORDER_ID_KEY"]
    namespace = told.get("REDIS_NAMESPACE") or _secret("REDIS_NAMESPACE") or namespace_of(keys.split(",")[0])
    if not re.fullmatch(NAMESPACE_PATTERN, namespace):
        raise HeadraceError(
            "REDIS_NAMESPACE cannot be used",
            "it is 1 to 40 letters, digits, dots, dashes and underscores",
            "correct it, or: unset REDIS_NAMESPACE",
        )
    return namespace


def _secret(name: str) -> str | None:
    """A variable as the services read it: from the environment, or a file in SECRETS_DIRECTORY. Empty means unset."""
    if os.environ.get(name) == "":
        return None
    try:
        return read_variables([name]).get(name)
    except WrongSettings as error:
        raise HeadraceError(str(error), fix=f"correct {name}") from None


def has_password(text: str) -> bool:
    """Whether a URL in `text` (comma-separated) holds a password in any place."""
    return re.search(r"//[^/?#@]*:[^/?#]*@|[?&]pass(word|file|wd)?=", text, re.IGNORECASE) is not None


def check_url(server: str, name: str, url: str, fix: str) -> None:
    """Raise HeadraceError if `url` is not a URL for this server. `name`: the variable or option it came from."""
    try:
        _CHECKS[server](url)
    except BadAddress as error:
        raise HeadraceError(
            f"{name} is not a usable URL: it {error}", f"a valid one looks like {GOOD_URLS[server]}", fix
        ) from None


def wanted_ports() -> dict[str, int]:
    """The port that each service tries first. Raises HeadraceError for an invalid variable."""
    return {name: _port(f"{name.upper()}_PORT", default) for name, default in SERVICE_PORTS.items()}


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise HeadraceError(
        f"{variable}={text} is not a port", "a port is a number from 1 to 65535", f"correct it, or: unset {variable}"
    )
