"""Which database and broker a command works on: those that it was told, or those of the running stack.

Orders of one system that are sent to the broker of another would take stock there. So a broker is known only when it
was named together with the database, or when both are the running stack's.
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
    """None where nobody said which one belongs to this database."""
    health: str | None = None
    """Where an ingest_api that accepts orders for this database tells of itself; None where nobody said so."""

    def known_broker(self) -> str:
        """Raises HeadraceError if it is not known."""
        if self.broker is None:
            raise HeadraceError(
                "the broker of this database is not known",
                "the orders of one system, sent to the broker of another, would take stock there",
                "name both, DATABASE_URL and AMQP_URL, or neither for the running stack",
            )
        return self.broker


def choose_target(home: Home, database_url: str | None = None, amqp_url: str | None = None) -> Target:
    """From the options, else from the environment, else the running stack's. Raises HeadraceError when there is none,
    or for what is no URL.
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
    """Of a stack that the environment names, only the door for clients is known."""
    return urls.get("health") or urls.get("ingest_api")


def _from_options(database_url: str | None, amqp_url: str | None) -> Target:
    for server, option, url in (("postgres", "--database-url", database_url), ("rabbitmq", "--amqp-url", amqp_url)):
        if url is not None:
            _refuse_password(server, option, url)
            check_url(server, option, url, f"correct {option}")
    if database_url is None:
        raise HeadraceError("--amqp-url without --database-url", "an audit is of a database", "name both, or neither")
    return Target(database_url, amqp_url)


def _refuse_password(server: str, option: str, url: str) -> None:
    """Raise HeadraceError for an address with a password: whoever lists processes reads the options of each."""
    if has_password(url):
        name = VARIABLES[server]
        raise HeadraceError(
            f"{option} with a password",
            "everybody on this machine can read the options of a command",
            f"put the address into the variable {name}, or into the file {name} of a directory that SECRETS_DIRECTORY"
            " names",
        )


def _place(url: str) -> tuple[str | None, int, str, str]:
    """Which database an address means, whoever uses it."""
    parts = urlsplit(url)
    return parts.hostname, parts.port or 5432, parts.path, parts.query


def _running_on(home: Home, database_url: str) -> dict[str, str]:
    """The running stack's addresses, if this is its database: then it was started with the same DATABASE_URL."""
    try:
        urls = running_urls(home)
    except HeadraceError:
        return {}
    return urls if _place(urls["database"]) == _place(database_url) else {}
