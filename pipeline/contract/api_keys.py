"""API keys: the token that a client holds, and the file in which the stack keeps the hashes for the two APIs.

A token is `hr_<id>_<secret>`. The id is public: it serves to find, list and revoke a key. The secret is 256 random
bits, and only its SHA-256 is kept. A fast hash is right here. A slow one, such as bcrypt, protects passwords, which
people choose so that they can be guessed. Nobody guesses 256 random bits, and the APIs hash at every request.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Literal, TypeAlias

import msgspec

ScopeName: TypeAlias = Literal["orders:write", "orders:read", "products:write", "ops"]
SCOPES: tuple[ScopeName, ...] = ("orders:write", "orders:read", "products:write", "ops")
ORDERS_WRITE, ORDERS_READ, PRODUCTS_WRITE, OPS = SCOPES

MAX_ORDERS_PER_S = 1_000_000

# Passes unescaped through JSON, COPY, logs and shells, and never looks like an option. `$` would let a newline by.
_CLIENT = r"^[a-z0-9][a-z0-9_.-]{0,63}\Z"
CLIENT_RULE = "1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit"

_ID, _SECRET = "[0-9a-f]{12}", "[0-9a-f]{64}"
_TOKEN = re.compile(f"hr_({_ID})_({_SECRET})")


class InvalidKeys(ValueError):
    """Bytes that are not a key file. The text says where and why, and quotes none of them."""


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One API key, as stored in the file."""

    id: Annotated[str, msgspec.Meta(pattern=rf"^{_ID}\Z")]
    client: Annotated[str, msgspec.Meta(pattern=_CLIENT)]
    """The key's owner. A client may have several keys, so that one can replace another without a gap."""
    scopes: Annotated[tuple[ScopeName, ...], msgspec.Meta(min_length=1)]
    secret_sha256: Annotated[str, msgspec.Meta(pattern=rf"^{_SECRET}\Z")]
    """Hex."""
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    orders_per_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_ORDERS_PER_S)] | None = None
    """Orders a second that its client may send to each ingest_api; None: no limit."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[ApiKey]


_decoder = msgspec.json.Decoder(_File)


def new_token() -> str:
    return f"hr_{secrets.token_hex(6)}_{secrets.token_hex(32)}"


def parse_token(token: str) -> tuple[str, str] | None:
    """Split a token into its id and its secret; None if it is no token."""
    match = _TOKEN.fullmatch(token)
    return (match[1], match[2]) if match else None


def hash_secret(secret: str) -> str:
    """The secret's SHA-256, in hex."""
    return sha256(secret.encode()).hexdigest()


def is_client_name(text: str) -> bool:
    return re.search(_CLIENT, text) is not None


def encode_keys(keys: Sequence[ApiKey]) -> str:
    """The content of a key file, readable for people."""
    return msgspec.json.format(msgspec.json.encode(_File(list(keys))), indent=2).decode() + "\n"


def decode_keys(content: bytes) -> list[ApiKey]:
    """The keys in a file. Raises InvalidKeys if any part of it is wrong: half a file is not trusted."""
    try:
        keys = _decoder.decode(content).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidKeys(str(error)) from None
    if len({key.id for key in keys}) < len(keys):
        raise InvalidKeys("two keys have the same id")
    return keys
