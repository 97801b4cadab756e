"""Passwords and keys of the private instances: made once, kept in a file that only its owner reads."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stack.errors import HeadraceError

# As many as the services take, see pipeline.process.settings.
MAX_ORDER_ID_KEYS = 4
# The mode of a file that its owner writes, and one group reads.
SHARED = 0o640


@dataclass(frozen=True)
class Credentials:
    """`order_id_key`: 64 hex digits, the key of the MAC in order ids; or several with commas between, the one that
    mints first. Changing it without `rotate_order_ids` makes all earlier ids unknown.

    `redis_namespace`: set when the key is first replaced, so that Redis keeps its meaning; "": the services derive it.
    """

    postgres: str
    rabbitmq: str
    redis: str
    order_id_key: str
    redis_namespace: str = ""

    @property
    def order_ids(self) -> dict[str, str]:
        """What the services are told about order ids, by variable."""
        told = {"ORDER_ID_KEY": self.order_id_key}
        keys = self.order_id_key.split(",")
        if namespace := self.redis_namespace or (namespace_of(keys[-1]) if len(keys) > 1 else ""):
            told["REDIS_NAMESPACE"] = namespace
        return told

    @property
    def namespace(self) -> str:
        """What keys in Redis begin with, as the services find it."""
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
    """As the services derive it, see pipeline.process.settings."""
    return hashlib.blake2b(order_id_key.encode(), digest_size=6, person=b"redis namespace").hexdigest()


def derived(secret: str, purpose: str) -> str:
    """A password of its own for `purpose`, 32 hex digits. It is the same each time, and does not tell the `secret`."""
    return hmac.new(secret.encode(), purpose.encode(), "sha256").hexdigest()[:32]


def load_or_create(path: Path) -> Credentials:
    """Read the credentials, or make and store them (mode 0600). Raises HeadraceError for a damaged file."""
    if not path.exists():
        write_private(path, json.dumps(asdict(generate()), indent=2) + "\n")
    try:
        return Credentials(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise HeadraceError(
            f"cannot read the credentials in {path}",
            f"the file is damaged ({error})",
            "put the file back from a copy, or start afresh without the old data: ./headrace down --purge",
        ) from error


def rotate_order_ids(path: Path, *, drop_old: bool = False) -> int:
    """Put a new key of order ids before those in the file, or drop all but the first. Returns how many there are now.

    Raises HeadraceError: no file, a damaged one, or too many keys.
    """
    if not path.exists():
        raise HeadraceError(f"there is no {path}", "this stack was never started", "./headrace up makes the first key")
    made = load_or_create(path)
    keys = made.order_id_key.split(",")
    if not drop_old and len(keys) >= MAX_ORDER_ID_KEYS:
        raise HeadraceError(
            f"there are {len(keys)} keys of order ids already",
            "each costs every retry a question about another id",
            "drop the old ones first, a day after the last rotation: ./headrace keys rotate-ids --drop-old",
        )
    namespace = made.redis_namespace or namespace_of(keys[-1])
    keys = keys[:1] if drop_old else [secrets.token_hex(32), *keys]
    after = replace(made, order_id_key=",".join(keys), redis_namespace=namespace)
    write_private(path, json.dumps(asdict(after), indent=2) + "\n")
    return len(keys)


def write_private(path: Path, text: str, *, group: int | None = None) -> None:
    """Write a file that is never seen half-written, nor by anyone else: made 0600, renamed into place.

    `group`: whose members may read it, too.
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
