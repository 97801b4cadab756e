"""Options that the addresses of PostgreSQL, RabbitMQ and Redis may have, and the valid values of each.

Options that an operator may expect but cannot have are here too, with the reason. pipeline.process.addresses refuses
any other name.
"""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

Check: TypeAlias = Callable[[str], str | None]
"""Takes an option's unescaped value. Returns what is wrong with it, or None. It does not quote the value."""


def is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12


def is_port(text: str) -> bool:
    return is_number(text) and 0 < int(text) < 65536


def _one_of(*values: str) -> Check:
    return lambda value: None if value in values else f"is one of {', '.join(values)}"


def _number(least: int, most: int) -> Check:
    return lambda value: (
        None if is_number(value) and least <= int(value) <= most else f"is a number from {least} to {most}"
    )


def _text(value: str) -> str | None:
    return None if value else "has no value"


def _refused(why: str) -> Check:
    return lambda _: f"cannot be used here: {why}"


def _file(value: str) -> str | None:
    """Check that a file is readable: each connection will read it, so it must be there at the start."""
    try:
        with Path(value).open("rb"):
            return None
    except (OSError, ValueError) as error:
        return f"names a file that cannot be read ({getattr(error, 'strerror', None) or 'not a file name'})"


def _certificates(value: str) -> str | None:
    if wrong := _file(value):
        return wrong
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except (OSError, ValueError):
        return "names a file that holds no certificate (PEM)"
    return None


def _ports(value: str) -> str | None:
    return None if all(map(is_port, value.split(","))) else "is a number from 1 to 65535"


_OWN_LIMITS = _refused("Headrace sets its own time limits; remove it")
_OWN_CONNECTION = _refused("Headrace sets this itself; remove it")

# asyncpg's own options, and server settings that change nothing Headrace relies on.
DATABASE_OPTIONS: Mapping[str, Check] = {
    "host": _text,
    "port": _ports,
    "user": _text,
    "password": _text,
    "dbname": _text,
    "database": _text,
    "passfile": _file,
    "sslmode": _one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslrootcert": _certificates,
    "sslcrl": _file,
    "sslcert": _file,
    "sslkey": _file,
    "sslpassword": _text,
    "sslnegotiation": _one_of("postgres", "direct"),
    "ssl_min_protocol_version": _one_of("TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": _one_of("TLSv1.2", "TLSv1.3"),
    # The pipeline writes, so a standby never serves it.
    "target_session_attrs": _one_of("any", "primary", "read-write"),
    "krbsrvname": _text,
    "gsslib": _one_of("gssapi"),
    "options": _text,
    "search_path": _text,
    "statement_timeout": _text,
    "lock_timeout": _text,
    # libpq's options, which asyncpg would send to the server as unknown settings.
    "connect_timeout": _OWN_LIMITS,
    "keepalives": _OWN_LIMITS,
    "keepalives_idle": _OWN_LIMITS,
    "keepalives_interval": _OWN_LIMITS,
    "keepalives_count": _OWN_LIMITS,
    "tcp_user_timeout": _OWN_LIMITS,
    "application_name": _refused("each process gives its own name to the server; remove it"),
    "client_encoding": _OWN_CONNECTION,
    "channel_binding": _refused("the client library has no channel binding; remove it"),
    "gssencmode": _refused("the client library has no GSSAPI encryption; remove it"),
    "service": _refused("name the host, the user and the database in the URL"),
    "servicefile": _refused("name the host, the user and the database in the URL"),
}
BROKER_OPTIONS: Mapping[str, Check] = {
    "auth": _one_of("plain", "external", "PLAIN", "EXTERNAL"),
    "cafile": _certificates,
    "capath": _text,
    "cadata": _text,
    "certfile": _file,
    "keyfile": _file,
    "no_verify_ssl": _one_of("0", "1"),
    "heartbeat": _refused("it is the setting AMQP_HEARTBEAT_S, with the prefix of the process"),
    "timeout": _OWN_LIMITS,
    "connection_timeout": _OWN_LIMITS,
    "name": _OWN_CONNECTION,
    "channel_max": _OWN_CONNECTION,
    "frame_max": _OWN_CONNECTION,
}
BROKER_TLS_OPTIONS = {"cafile", "capath", "cadata", "certfile", "keyfile", "no_verify_ssl"}
_BOOLEAN = _one_of("true", "false", "True", "False", "yes", "no", "1", "0")
REDIS_OPTIONS: Mapping[str, Check] = {
    "db": _number(0, 2**31 - 1),
    "health_check_interval": _number(0, 3600),
    "username": _text,
    "password": _text,
    "ssl_ca_certs": _certificates,
    "ssl_certfile": _file,
    "ssl_keyfile": _file,
    "ssl_cert_reqs": _one_of("none", "optional", "required"),
    "ssl_check_hostname": _BOOLEAN,
    "decode_responses": _OWN_CONNECTION,
    "encoding": _OWN_CONNECTION,
    "protocol": _OWN_CONNECTION,
    "max_connections": _OWN_CONNECTION,
    "socket_timeout": _OWN_LIMITS,
    "socket_connect_timeout": _OWN_LIMITS,
    "timeout": _OWN_LIMITS,
}
