"""Checks the addresses of PostgreSQL, RabbitMQ and Redis before anything connects to them.

Each client library parses a URL in its own way, and none refuses an option that it does not know. asyncpg sends it to
the server as a setting, redis-py passes it to its connection as a keyword argument, aiormq ignores it. An unescaped
`@`, `/`, `?` or `#` in a password turns the rest of it into a host, a path or a port, which then appears in error
messages. So one strict parser runs before theirs. pipeline.process.address_options lists the options that it allows.

No message of this module quotes a part of a URL, except the name of an option: a URL holds a password.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from pipeline.process.address_options import (
    BROKER_OPTIONS,
    BROKER_TLS_OPTIONS,
    DATABASE_OPTIONS,
    REDIS_OPTIONS,
    Check,
    is_port,
)

DATABASE_SCHEMES = ("postgresql", "postgres")
BROKER_SCHEMES = ("amqp", "amqps")
REDIS_SCHEMES = ("redis", "rediss", "unix")


_LIBPQ = {
    "PGPORT": "port",
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}


class BadAddress(ValueError):
    """An unusable address. The text says what to change, and quotes no secret."""


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL, still escaped."""

    scheme: str
    login: str | None
    """`user:password`."""
    hosts: tuple[str, ...]
    """Names or addresses, with or without a port. Empty if the URL names none."""
    path: str
    """With its leading slash, or empty."""
    options: Mapping[str, str]
    """Unescaped."""


# ── the three addresses


def check_database(url: str) -> str:
    """Check PostgreSQL's URL and return it unchanged. Raises BadAddress."""
    address = _read(url, DATABASE_SCHEMES, "postgresql://USER:PASSWORD@HOST:5432/DATABASE", DATABASE_OPTIONS)
    if not address.hosts and "host" not in address.options:
        raise BadAddress("names no host")
    if address.path.count("/") > 1:
        raise BadAddress("has more than a database's name after the host: in a name or a password `/` is written %2F")
    _check_hosts(address)
    _check_tls(address.options)
    return url


def check_libpq(url: str) -> str:
    """Check the variables of libpq that asyncpg reads besides the URL. Returns `url` unchanged. Raises BadAddress."""
    for name, option in _LIBPQ.items():
        if (value := os.environ.get(name)) and (wrong := DATABASE_OPTIONS[option](value)):
            raise BadAddress(f"is read together with the variable {name}, which {wrong}")
    return url


def check_brokers(urls: str) -> str:
    """Check the comma-separated URLs of RabbitMQ's nodes and return them unchanged. Raises BadAddress."""
    addresses = [_check_broker(url) for url in urls.split(",")]
    if len({_vhost(address) for address in addresses}) > 1:
        raise BadAddress("names nodes with different virtual hosts: all nodes of a cluster serve the same one")
    return urls


def check_redis(url: str) -> str:
    """Check the URL of Redis and return it unchanged. Raises BadAddress."""
    address = _read(url, REDIS_SCHEMES, "redis://:PASSWORD@HOST:6379/0", REDIS_OPTIONS)
    for name in address.options:
        if name in ("username", "password") and address.scheme != "unix":
            raise BadAddress(f"has the option `{name}`, which is of `unix://` alone: write redis://USER:PASSWORD@HOST")
        if name.startswith("ssl_") and address.scheme != "rediss":
            raise BadAddress(f"has the option `{name}`, which is of `rediss://` alone")
    if address.scheme == "unix":
        if address.hosts or len(address.path) < 2:
            raise BadAddress("does not name a socket: it looks like unix:///run/redis/redis.sock")
        return url
    _one_host(address)
    if not re.fullmatch(r"/?|/[0-9]{1,9}", address.path):
        raise BadAddress("has more than a database's number after the host, as in /0")
    return url


def _check_hosts(address: Address) -> None:
    """Check PostgreSQL's hosts: one or more, sockets too, in the authority or in the option `host`."""
    hosts = address.hosts
    if not hosts:
        hosts = tuple(address.options["host"].split(","))
        for host in hosts:
            if not host.startswith("/"):
                _check_host(host)
    if "port" in address.options and address.options["port"].count(",") not in (0, len(hosts) - 1):
        raise BadAddress("has the option `port` with another number of ports than it has hosts")


def _check_tls(options: Mapping[str, str]) -> None:
    mode = options.get("sslmode", "prefer")
    if options.get("sslnegotiation") == "direct" and mode not in ("require", "verify-ca", "verify-full"):
        raise BadAddress("has the option `sslnegotiation=direct`, which needs sslmode=require or stricter")
    if not mode.startswith("verify-") or "sslrootcert" in options or os.environ.get("PGSSLROOTCERT"):
        return
    if not (Path.home() / ".postgresql/root.crt").is_file():
        raise BadAddress(f"has the option `sslmode={mode}`, which needs sslrootcert=FILE: whom to trust")


def _check_broker(url: str) -> Address:
    if not url:
        raise BadAddress("has a comma with no address beside it: in a password `,` is written %2C")
    address = _read(url, BROKER_SCHEMES, "amqp://USER:PASSWORD@HOST:5672/%2F", BROKER_OPTIONS)
    _one_host(address)
    for name in sorted(BROKER_TLS_OPTIONS & set(address.options)):
        if address.scheme != "amqps":
            raise BadAddress(f"has the option `{name}`, which is of `amqps://` alone")
    return address


def _vhost(address: Address) -> str:
    return unquote(address.path[1:]) or "/"


def _one_host(address: Address) -> None:
    if not address.hosts:
        raise BadAddress("names no host")
    if len(address.hosts) > 1:
        raise BadAddress("has a comma: in a password it is written %2C")
    if unquote(address.hosts[0]).startswith("/"):
        raise BadAddress("has a socket's path for a host, which the client library cannot use")


# ── reading


def _read(url: str, schemes: tuple[str, ...], example: str, known: Mapping[str, Check]) -> Address:
    if not url:
        raise BadAddress(f"is empty; it looks like {example}")
    if any(not it.isprintable() or it.isspace() for it in url):
        raise BadAddress("holds white space or a control character: remove it, or escape it (a space is %20)")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in schemes:
        words = " or ".join(f"{it}://" for it in schemes)
        raise BadAddress(f"does not begin with {words}; it looks like {example}")
    login, hosts, path, query = _split(rest)
    if login is not None:
        _check_login(login)
    _unescaped(path)
    address = Address(scheme, login, hosts, path, dict(_options(query)))
    _check_options(address.options, known)
    return address


def _split(rest: str) -> tuple[str | None, tuple[str, ...], str, str]:
    """Split what follows `://` into login, hosts, path and query."""
    if "#" in rest:
        raise BadAddress("holds a `#`: in a password, escape it: %23")
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        raise BadAddress("holds a `%` that escapes nothing: in a password, escape it: %25")
    end = next((place for place, it in enumerate(rest) if it in "/?"), len(rest))
    authority, tail = rest[:end], rest[end:]
    if "@" in tail:
        raise BadAddress(
            "holds an `@` after the host: in a password, escape `/`, `?` and `@` (%2F, %3F, %40), also in an option"
        )
    if authority.count("@") > 1:
        raise BadAddress("holds more than one `@`: in a password, escape it: %40")
    login, is_there, names = authority.rpartition("@")
    path, _, query = tail.partition("?")
    hosts = tuple(names.split(",")) if names else ()
    for host in hosts:
        _check_host(host)
    return (login if is_there else None), hosts, path, query


def _check_login(login: str) -> None:
    if not login:
        raise BadAddress("has an `@` and no user or password before it")
    if "[" in login or "]" in login:
        raise BadAddress("holds a bracket in the user or password: escape it: %5B or %5D")
    _unescaped(login)


def _check_host(host: str) -> None:
    """Raise BadAddress unless `host` is NAME, NAME:PORT or [IPV6]:PORT. Not quoted: it may be half a password."""
    if host.startswith("["):
        name, _, after = host[1:].partition("]")
        colon, port = after[:1], after[1:]
        if not _is_ipv6(name) or "]" not in host or colon not in ("", ":"):
            raise BadAddress("has brackets around what is no IPv6 address: it looks like [::1]:5432")
    else:
        name, colon, port = host.partition(":")
        if ":" in port:
            raise BadAddress("has several colons where the host is: an IPv6 address needs brackets, as in [::1]")
        _check_name(name)
    if not name:
        raise BadAddress("names no host")
    if colon and not is_port(port):
        raise BadAddress(
            "has a port that is no number from 1 to 65535; if it is part of a password, escape what follows:"
            " `/` is %2F, `?` is %3F, `@` is %40"
        )


def _is_ipv6(text: str) -> bool:
    try:
        return bool(IPv6Address(unquote(text)))
    except ValueError:
        return False


def _check_name(name: str) -> None:
    text = _unescaped(name)
    if not text.startswith("/") and re.search(r"[^\w.-]", text):
        raise BadAddress("has a host with a character that no host has; if it is of a password, escape it")


def _unescaped(text: str) -> str:
    """Unescape `text`. Raises BadAddress for escapes that are no text."""
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadAddress("escapes bytes that are no UTF-8 text") from None
    if "\0" in plain:
        raise BadAddress("holds an escaped NUL (%00), which no server takes")
    return plain


def _options(query: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for part in filter(None, query.split("&")):
        raw, equals, value = part.partition("=")
        name = _unescaped(raw)
        # Not quoted: text without `=` may be half of a password.
        if not equals or not re.fullmatch(r"[A-Za-z_.]{1,40}", name):
            raise BadAddress("has a `?` with no option=value after it: in a password, `?` is written %3F")
        if name in seen:
            raise BadAddress(f"has the option `{name}` twice")
        seen.add(name)
        _unescaped(value)
        yield name, unquote_plus(value)


def _check_options(options: Mapping[str, str], known: Mapping[str, Check]) -> None:
    for name, value in options.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"; did you mean `{near[0]}`?" if near else ""
            raise BadAddress(f"has the option `{name}`, which is not known{meant}")
        if wrong := known[name](value):
            raise BadAddress(f"has the option `{name}`, which {wrong}")
