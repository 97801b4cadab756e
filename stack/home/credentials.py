"""Passwords and keys of a stack: created once, stored in a file that only its owner reads."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stack.errors import HeadraceError

# The services' maximum, see pipeline.process.settings.
MAX_ORDER_ID_KEYS = 4
# Mode of a file that its owner writes and one group reads.
SHARED = 0o640


@dataclass(frozen=True)
class Credentials:
    """`order_id_key`: 64 hex digits, the key of the MAC in order ids. Several are separated by commas; the first signs
    new ids. Changing it without `rotate_order_ids` makes all earlier ids unknown.

    `redis_namespace`: set when the key is first replaced, so that keys in Redis stay valid. "": the services derive it.
    """

    postgres: str
    rabbitmq: str
    redis: str
    order_id_key: str
    redis_namespace: str = ""

    @property
    def order_ids(self) -> dict[str, str]:
        """The services' variables about order ids."""
        told = {"ORDER_ID_KEY": self.order_id_key}
        keys = self.order_id_key.split(",")
        if namespace := self.redis_namespace or (namespace_of(keys[-1]) if len(keys) > 1 else ""):
            told["REDIS_NAMESPACE"] = namespace
        return told

    @property
    def namespace(self) -> str:
        """The prefix of keys in Redis, as the services derive it."""
        return self.redis_namespace or namespace_of(self.order_id_key.split(",")[-1])


def generate() -> Credentials:
    # Hex: passes unescaped through URLs, configuration files and shells.
    return Credentials(
        postgres=secrets.token_hex(16),
        rabbitmq=secrets.token_hex(16),
        redis=secrets.token_hex(16),
        order_id_key=secrets.token_hex(32),
    )


def namespace_of(order_id_key: str) -> str:
    """The namespace that the services derive from the key, see pipeline.process.settings."""
    return hashlib.blake2b(order_id_key.encode(), digest_size=6, person=b"redis namespace").hexdigest()


def derived(secret: str, purpose: str) -> str:
    """Derive a password for `purpose`: 32 hex digits, always the same. It does not reveal the `secret`."""
    return hmac.new(secret.encode(), purpose.encode(), "sha256").hexdigest()[:32]


def load_or_create(path: Path) -> Credentials:
    """Read the credentials, or create and store them (mode 0600). Raises HeadraceError for a damaged file."""
    if not path.exists():
        write_private(path, json.dumps(asdict(generate()), indent=2) + "\n")
    try:
        return Credentials(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise HeadraceError(
            f"cannot read the credentials in {path}",
            f"the file is damaged ({error})",
            "restore the file from a copy, or delete all data and start afresh: ./headrace down --purge",
        ) from error


def rotate_order_ids(path: Path, *, drop_old: bool = False) -> int:
    """Add a new key of order ids in first place, or drop all keys but the first. Returns the number of keys.

    Raises HeadraceError if the file is missing or damaged, or if there are too many keys.
    """
    if not path.exists():
        raise HeadraceError(
            f"there is no {path}", "this stack was never started", "./headrace up creates the first key"
        )
    made = load_or_create(path)
    keys = made.order_id_key.split(",")
    if not drop_old and len(keys) >= MAX_ORDER_ID_KEYS:
        raise HeadraceError(
            f"there are {len(keys)} keys of order ids already",
            "each one costs every retry another look-up",
            "drop the old ones first, a day after the last rotation: ./headrace keys rotate-ids --drop-old",
        )
    namespace = made.redis_namespace or namespace_of(keys[-1])
    keys = keys[:1] if drop_old else [secrets.token_hex(32), *keys]
    after = replace(made, order_id_key=",".join(keys), redis_namespace=namespace)
    write_private(path, json.dumps(asdict(after), indent=2) + "\n")
    return len(keys)


def write_private(path: Path, text: str, *, group: int | None = None) -> None:
    """Write a file atomically, and readable only by its owner: created 0600, then renamed into place.

    `group`: its members may read the file too.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if group is not None:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, SHARED)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
