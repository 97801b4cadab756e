"""Chooses the database and broker that a command works on: given ones, or the running stack's.

Orders of one system, sent to another system's broker, would take stock there. So the broker is known only if it was
given together with the database, or if both are the running stack's.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.home.environment import VARIABLES, check_url, external_urls, has_password
from stack.run.status import running_urls


@dataclass(frozen=True, slots=True)
class Target:
    database: str
    broker: str | None
    """None: it is unknown which broker belongs to the database."""
    health: str | None = None
    """Health address of an ingest_api that accepts orders for this database; None: unknown."""

    def known_broker(self) -> str:
        """The broker. Raises HeadraceError if it is unknown."""
        if self.broker is None:
            raise HeadraceError(
                "the broker of this database is unknown",
                "orders of one system, sent to another system's broker, would take stock there",
                "set both DATABASE_URL and AMQP_URL, or neither for the running stack",
            )
        return self.broker


def choose_target(home: Home, database_url: str | None = None, amqp_url: str | None = None) -> Target:
    """The target from the options, else the environment, else the running stack.

    Raises HeadraceError if there is none, or an option is not a URL.
    """
    if database_url is not None or amqp_url is not None:
        return _from_options(database_url, amqp_url)
    given = external_urls()
    if "postgres" in given:
        beside = _running_on(home, given["postgres"])
        return Target(given["postgres"], given.get("rabbitmq") or beside.get("broker"), _health_of(beside))
    urls = running_urls(home)
    is_ours = given.get("rabbitmq", urls["broker"]) == urls["broker"]
    return Target(urls["database"], urls["broker"] if is_ours else None, _health_of(urls))


def _health_of(urls: dict[str, str]) -> str | None:
    """A health address. If the environment names the stack, only its client address is known."""
    return urls.get("health") or urls.get("ingest_api")


def _from_options(database_url: str | None, amqp_url: str | None) -> Target:
    for server, option, url in (("postgres", "--database-url", database_url), ("rabbitmq", "--amqp-url", amqp_url)):
        if url is not None:
            _refuse_password(server, option, url)
            check_url(server, option, url, f"correct {option}")
    if database_url is None:
        raise HeadraceError("--amqp-url without --database-url", "an audit needs a database", "pass both, or neither")
    return Target(database_url, amqp_url)


def _refuse_password(server: str, option: str, url: str) -> None:
    """Raise HeadraceError for a URL with a password: every user of the machine can see a command's options."""
    if has_password(url):
        name = VARIABLES[server]
        raise HeadraceError(
            f"{option} with a password",
            "every user of this machine can see the options of a command",
            f"put the URL into the variable {name}, or into the file {name} in the directory that SECRETS_DIRECTORY"
            " names",
        )


def _place(url: str) -> tuple[str | None, int, str, str]:
    """The database that a URL means, without user and password."""
    parts = urlsplit(url)
    return parts.hostname, parts.port or 5432, parts.path, parts.query


def _running_on(home: Home, database_url: str) -> dict[str, str]:
    """The running stack's URLs, if it was started with the same DATABASE_URL; else {}."""
    try:
        urls = running_urls(home)
    except HeadraceError:
        return {}
    return urls if _place(urls["database"]) == _place(database_url) else {}
