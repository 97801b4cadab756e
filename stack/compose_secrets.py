"""The passwords of a stack in containers: made once, and put where those who need them look.

python -m stack.compose_secrets     the job `secrets` of docker-compose.yml

Each directory is a volume of its own, which only its reader mounts. So a file may be readable to all: the servers'
images run as users whose numbers are theirs to choose. What is made first, and only once, is `credentials.json`; all
else follows from it, and is written again each time, so that a job that was killed half way is made up for by the next.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from stack.credentials import Credentials, load_or_create, write_private
from stack.home import Home
from stack.key_file import ensure_file

ROOT = Path("/secrets")
USER = "headrace"
# Nothing of it is ever written to disk, and the oldest go first: a cache and nothing else. See stack/redis_server.py.
REDIS = """\
requirepass {password}
save ""
appendonly no
maxmemory 256mb
maxmemory-policy allkeys-lru
dir /data
"""
RABBITMQ = """\
default_user = {user}
default_pass = {password}
default_user_tags.administrator = true
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
"""


def files(made: Credentials, brokers: str = "rabbitmq") -> dict[str, str]:
    """Path below the root → what stands in it. `brokers`: host names, with commas between."""
    amqp = ",".join(f"amqp://{USER}:{made.rabbitmq}@{host}:5672/%2F" for host in brokers.split(","))
    return {
        "services/DATABASE_URL": f"postgresql://{USER}:{made.postgres}@postgres:5432/headrace",
        "services/AMQP_URL": amqp,
        "services/REDIS_URL": f"redis://:{made.redis}@redis:6379/0",
        "services/ORDER_ID_KEY": made.order_id_key,
        "postgres/password": made.postgres,
        "rabbitmq/cookie": hashlib.sha256(f"erlang cookie {made.rabbitmq}".encode()).hexdigest(),
        "rabbitmq/10-user.conf": RABBITMQ.format(user=USER, password=made.rabbitmq),
        "redis/redis.conf": REDIS.format(password=made.redis),
        "redis/password": made.redis,
    }


def write(root: Path, environment: Mapping[str, str]) -> None:
    made = load_or_create(root / "services" / "credentials.json")
    for name, text in files(made, environment.get("BROKERS") or "rabbitmq").items():
        path = root / name
        write_private(path, text.rstrip("\n") + "\n")
        path.chmod(0o444)


def main() -> None:
    write(ROOT, os.environ)
    home = Home.current()
    home.create()
    ensure_file(home)


if __name__ == "__main__":
    main()
