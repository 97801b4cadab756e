"""Passwords and keys of the private instances: made once, kept in a file that only its owner reads."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from stack.errors import HeadraceError


@dataclass(frozen=True)
class Credentials:
    """`order_id_key`: 64 hex digits, the key of the MAC in order ids. Changing it makes all earlier ids unknown."""

    postgres: str
    rabbitmq: str
    redis: str
    order_id_key: str


def generate() -> Credentials:
    # Hex: passes unescaped through URLs, configuration files and shells.
    return Credentials(
        postgres=secrets.token_hex(16),
        rabbitmq=secrets.token_hex(16),
        redis=secrets.token_hex(16),
        order_id_key=secrets.token_hex(32),
    )


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


def write_private(path: Path, text: str) -> None:
    """Write a file that is never seen half-written, nor by anyone else: made 0600, renamed into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
