"""The passwords of a stack in containers: made once, and put where those who need them look.

python -m stack.compose_secrets                           the job `secrets` of docker-compose.yml
python -m stack.compose_secrets rotate-ids [--drop-old]   replace ORDER_ID_KEY, as ./headrace keys rotate-ids does

Each directory is a volume of its own, which only its reader mounts. So a file may be readable to all: the servers'
images run as users whose numbers are theirs to choose. What is made first, and only once, is `credentials.json`; all
else follows from it, and is written again each time, so that a job that was killed half way is made up for by the next.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stack import postgres
from stack.credentials import Credentials, derived, load_or_create, rotate_order_ids, write_private
from stack.home import Home
from stack.key_file import ensure_file
from stack.rabbitmq import USER, USER_CONFIGURATION
from stack.redis_server import CACHE_CONFIGURATION

ROOT = Path("/secrets")


def files(made: Credentials, brokers: str = "rabbitmq") -> dict[str, str]:
    """Path below the root → what stands in it. `brokers`: host names, with commas between."""
    amqp = ",".join(f"amqp://{USER}:{made.rabbitmq}@{host}:5672/%2F" for host in brokers.split(","))
    return {
        "services/DATABASE_URL": f"postgresql://{postgres.USER}:{made.postgres}@postgres:5432/{postgres.DATABASE}",
        "services/AMQP_URL": amqp,
        "services/REDIS_URL": f"redis://:{made.redis}@redis:6379/0",
        "services/ORDER_ID_KEY": made.order_id_key,
        "postgres/password": made.postgres,
        "rabbitmq/cookie": hashlib.sha256(f"erlang cookie {made.rabbitmq}".encode()).hexdigest(),
        "rabbitmq/10-user.conf": USER_CONFIGURATION.format(user=USER, password=made.rabbitmq),
        "redis/redis.conf": CACHE_CONFIGURATION.format(password=made.redis, directory="/data"),
        "redis/password": made.redis,
        "grafana/password": derived(made.postgres, "grafana admin"),
    }


def write(root: Path, environment: Mapping[str, str]) -> None:
    made = load_or_create(root / "services" / "credentials.json")
    for name, text in files(made, environment.get("BROKERS") or "rabbitmq").items():
        path = root / name
        write_private(path, text.rstrip("\n") + "\n")
        path.chmod(0o444)


def main() -> None:
    if "rotate-ids" in sys.argv[1:]:
        rotate_order_ids(ROOT / "services" / "credentials.json", drop_old="--drop-old" in sys.argv[1:])
    write(ROOT, os.environ)
    home = Home.current()
    home.create()
    ensure_file(home)


if __name__ == "__main__":
    main()
