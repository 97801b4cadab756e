"""Permissions in Redis: one table, from which the users of `up`, of Compose and of other deployments derive.

python -m stack.servers.redis_users NAMESPACE DIRECTORY     prints the commands that create the users, safe to repeat

NAMESPACE is the services' REDIS_NAMESPACE. DIRECTORY has a file for each service, with its password. The printed
commands hold only hashes.

Users belong to a whole Redis server, so their names and key patterns start with the namespace: two deployments on one
Redis share neither. Redis checks a script's commands like any others, so the table includes them. No service publishes
or subscribes. Of commands about the server, they need only INFO and TIME. Needs Redis 7, the first version that
separates permission to read a key from permission to write it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.process.settings import NAMESPACE_PATTERN


@dataclass(frozen=True)
class Rights:
    """A user's commands, and the keys that it may read and write: without the namespace, `*` matches anything."""

    commands: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


# Claims and their marker, lists of claims by client, cached pages of orders; see ingest_api.idempotency.claims_script.
_CLAIMS, _PRODUCTS, _PAGES = ("claim:*", "claims:*", "memory"), "product:*", "orders-of-product:*"
# Tells an emptied cache from a cold one, see pipeline.cache.product_cache.
_EPOCH = "cache-epoch"

RIGHTS: Mapping[str, Rights] = {
    # It reads prices from the cache, and writes none.
    "ingest_api": Rights(
        commands=(
            *("eval", "time", "info", "type"),
            *("get", "set", "del", "pexpire"),
            *("hget", "hmget", "hset"),
            *("lindex", "lpop", "lpush", "rpush"),
        ),
        reads=(*_CLAIMS, _EPOCH, _PAGES, _PRODUCTS),
        writes=(*_CLAIMS, _EPOCH, _PAGES),
    ),
    # It gets a URL like all services, and never uses Redis.
    "persist_worker": Rights(),
    # Both delete pages of orders without reading them, whenever they bust a product.
    "product_consumer": Rights(
        commands=("eval", "get", "set", "del", "expire", "hget", "hset", "hdel"),
        reads=(_PRODUCTS, _EPOCH),
        writes=(_PRODUCTS, _EPOCH, _PAGES),
    ),
    "product_api": Rights(
        commands=("eval", "time", "get", "set", "del", "expire", "pexpire", "hget", "hmget", "hset", "hdel"),
        reads=(_PRODUCTS, _EPOCH),
        writes=(_PRODUCTS, _EPOCH, _PAGES),
    ),
}


def user_name(namespace: str, service: str) -> str:
    return f"{namespace}_{service}"


def rules(rights: Rights, namespace: str) -> str:
    """A user's ACL rules, without its password."""
    keys = dict.fromkeys((*rights.writes, *rights.reads))
    may = [*(f"{_access(rights, key)}~{namespace}:{key}" for key in keys), *(f"+{it}" for it in rights.commands)]
    return " ".join(["resetchannels", *may])


def definitions(passwords: Mapping[str, str], namespace: str) -> Iterator[str]:
    """A line for each user: name and rules, as `ACL SETUSER` and `user` in redis.conf take them.

    `passwords`: service → password; the lines hold hashes. Raises ValueError for an invalid namespace.
    """
    if not re.fullmatch(NAMESPACE_PATTERN, namespace):
        raise ValueError(f"{namespace!r} is not a namespace: 1 to 40 letters, digits and . _ -")
    for service, rights in RIGHTS.items():
        hashed = hashlib.sha256(passwords[service].encode()).hexdigest()
        yield f"{user_name(namespace, service)} reset on #{hashed} {rules(rights, namespace)}"


def _access(rights: Rights, key: str) -> str:
    if key in rights.reads and key in rights.writes:
        return ""
    return "%R" if key in rights.reads else "%W"


# ── I/O below


def passwords_in(directory: Path) -> dict[str, str]:
    """Service → password. Raises OSError for a missing file, ValueError for an empty one."""
    passwords = {service: (directory / service).read_text().strip() for service in RIGHTS}
    if empty := [service for service, password in passwords.items() if not password]:
        raise ValueError(f"the file {empty[0]} has no password")
    return passwords


def main(arguments: list[str]) -> int:
    """Print the commands. Returns 0; 1 for a wrong password or namespace; 2 for wrong arguments."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        lines = [*definitions(passwords_in(Path(arguments[1])), arguments[0])]
    except (OSError, ValueError) as error:
        print(f"stack.servers.redis_users: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"ACL SETUSER {line}" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
