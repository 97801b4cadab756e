"""Who may do what in Redis: one table, from which the users of `up`, of Compose and of other deployments derive.

python -m stack.servers.redis_users NAMESPACE DIRECTORY     print the commands that make the users, safe to repeat

NAMESPACE is the services' REDIS_NAMESPACE. DIRECTORY has a file for each service, with its password; what is printed
has hashes of them.

Users belong to a whole Redis, so their names and the patterns of their keys begin with the namespace: two deployments
on one Redis share neither. Redis checks what a script does as if its user had sent each command alone, so the table
has the commands and keys of the scripts, too. No service publishes or subscribes, and none needs a command about the
server but INFO and TIME. Needs Redis 7, the first that tells keys that are read from keys that are written.
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
    """Commands, and the keys that a user may read and write with them: behind the namespace, `*` for anything."""

    commands: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


# Claims and their marker, lists of claims by client, cached pages of orders; see ingest_api.idempotency.claims_script.
_CLAIMS, _PRODUCTS, _PAGES = ("claim:*", "claims:*", "memory"), "product:*", "orders-of-product:*"
# What tells an emptied cache from a cold one, see pipeline.cache.product_cache.
_EPOCH = "cache-epoch"

RIGHTS: Mapping[str, Rights] = {
    # It takes prices from the cache, and puts none there.
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
    # It is told an address, as all services are, and uses none of Redis.
    "persist_worker": Rights(),
    # Both drop pages of orders, unread, whenever they drop a product.
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
    """What Redis calls the rules of a user, but for its password."""
    keys = dict.fromkeys((*rights.writes, *rights.reads))
    may = [*(f"{_access(rights, key)}~{namespace}:{key}" for key in keys), *(f"+{it}" for it in rights.commands)]
    return " ".join(["resetchannels", *may])


def definitions(passwords: Mapping[str, str], namespace: str) -> Iterator[str]:
    """A line for each user: its name and all its rules, as `ACL SETUSER` and `user` in redis.conf take them.

    `passwords`: of each service in RIGHTS. The lines hold hashes of them. Raises ValueError for what is no namespace.
    """
    if not re.fullmatch(NAMESPACE_PATTERN, namespace):
        raise ValueError(f"{namespace!r} is no namespace: 1 to 40 letters, digits and . _ -")
    for service, rights in RIGHTS.items():
        hashed = hashlib.sha256(passwords[service].encode()).hexdigest()
        yield f"{user_name(namespace, service)} reset on #{hashed} {rules(rights, namespace)}"


def _access(rights: Rights, key: str) -> str:
    if key in rights.reads and key in rights.writes:
        return ""
    return "%R" if key in rights.reads else "%W"


# ── I/O below


def passwords_in(directory: Path) -> dict[str, str]:
    """Of each service in RIGHTS. Raises OSError for one without a file, ValueError for an empty one."""
    passwords = {service: (directory / service).read_text().strip() for service in RIGHTS}
    if empty := [service for service, password in passwords.items() if not password]:
        raise ValueError(f"the file {empty[0]} has no password")
    return passwords


def main(arguments: list[str]) -> int:
    """The exit code: 0, 1 when a password or the namespace is wrong, 2 for wrong arguments."""
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
