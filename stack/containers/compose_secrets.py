"""Creates the passwords of a stack in containers, and writes each where its reader looks.

python -m stack.containers.compose_secrets                           the job `secrets` of docker-compose.yml
python -m stack.containers.compose_secrets rotate-ids [--drop-old]   replaces ORDER_ID_KEY, as ./headrace keys does

Each directory is a volume of its own, mounted only by its reader. So a file may be readable for all: the images of the
servers choose their own user ids. `credentials.json` is created first, and only once. All other files derive from it
and are written again each time, so the next run completes one that was killed halfway.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from migrations.privileges import OWNER
from stack.home.credentials import Credentials, derived, load_or_create, rotate_order_ids, write_private
from stack.home.directory import Home
from stack.home.key_file import ensure_file
from stack.home.state import SERVICES
from stack.servers import postgres
from stack.servers.accounts import (
    broker_passwords,
    broker_urls,
    database_passwords,
    database_urls,
    redis_passwords,
    redis_urls,
)
from stack.servers.broker_users import definitions
from stack.servers.rabbitmq import VHOST, WITH_USERS
from stack.servers.redis_server import configure_cache
from stack.servers.redis_users import definitions as redis_users

ROOT = Path("/secrets")


def files(made: Credentials, brokers: str = "rabbitmq") -> dict[str, str]:
    """Path below the root → content. `brokers`: host names, separated by commas."""
    admin = f"postgresql://{postgres.USER}:{made.postgres}@postgres:5432/{postgres.DATABASE}"
    databases = database_urls(admin, made)
    nodes = broker_urls(",".join(f"amqp://{host}:5672/%2F" for host in brokers.split(",")), made)
    caches = redis_urls("redis://redis:6379/0", made, made.namespace)
    told = {name: {"DATABASE_URL": databases[name], "AMQP_URL": nodes[name]} for name in SERVICES}
    # event_relay mints no ids, and uses no Redis.
    for name, cache in caches.items():
        told[name] |= {"REDIS_URL": cache, **made.order_ids}
    told["tools"] = {"DATABASE_URL": databases["operator"], "AMQP_URL": nodes["operator"]}
    told["migrate"] = {"DATABASE_URL": databases[OWNER]}
    users = redis_users(redis_passwords(made), made.namespace)
    return {
        **{f"{reader}/{name}": text for reader, texts in told.items() for name, text in texts.items()},
        "accounts/DATABASE_URL": admin,
        **{f"accounts/{role}": password for role, password in database_passwords(made).items()},
        "postgres/password": made.postgres,
        "rabbitmq/cookie": hashlib.sha256(f"erlang cookie {made.rabbitmq}".encode()).hexdigest(),
        "rabbitmq/definitions.json": definitions(broker_passwords(made), VHOST),
        "rabbitmq/10-user.conf": WITH_USERS.format(definitions="/run/secrets/definitions.json"),
        "redis/redis.conf": configure_cache(made.redis, "/data", users),
        "redis/password": made.redis,
        "grafana/password": derived(made.postgres, "grafana admin"),
    }


def write(root: Path, environment: Mapping[str, str]) -> None:
    made = load_or_create(root / "services" / "credentials.json")
    for name, text in files(made, environment.get("BROKERS") or "rabbitmq").items():
        path = root / name
        write_private(path, text.rstrip("\n") + "\n")
        path.chmod(0o444)
    # Services mounted this directory until they had accounts of their own.
    for name in ("DATABASE_URL", "AMQP_URL", "REDIS_URL", "ORDER_ID_KEY"):
        (root / "services" / name).unlink(missing_ok=True)


def main() -> None:
    if "rotate-ids" in sys.argv[1:]:
        rotate_order_ids(ROOT / "services" / "credentials.json", drop_old="--drop-old" in sys.argv[1:])
    write(ROOT, os.environ)
    home = Home.current()
    home.create()
    ensure_file(home)


if __name__ == "__main__":
    main()
