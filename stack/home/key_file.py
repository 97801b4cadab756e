"""The file of API keys, and the stack's own key in it.

From the first key on, nobody gets in without one: seeds and the demo are clients like others. So with the first comes a
key of the client `headrace`, whose token lies beside the file, for its owner alone to read.

That token also tells that there have been keys. A file that is not there is then not the same as no keys: it got lost,
and nothing starts until somebody has said what is to be.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from pipeline.contract.api_keys import (
    SCOPES,
    ApiKey,
    InvalidKeys,
    ScopeName,
    decode_keys,
    encode_keys,
    hash_secret,
    new_token,
    parse_token,
)
from stack.errors import HeadraceError
from stack.home.credentials import SHARED, write_private
from stack.home.directory import Home
from stack.process.identity import services_identity

OWN_CLIENT = "headrace"
# In the place of the token: somebody has revoked the stack's own key.
REVOKED = "revoked\n"


def read_keys(home: Home) -> list[ApiKey]:
    """All of them; none if there never were any. Raises HeadraceError for a file that is damaged or got lost."""
    try:
        return decode_keys(home.api_keys.read_bytes())
    except FileNotFoundError:
        if home.own_api_key.exists():
            raise _lost(home) from None
        return []
    except InvalidKeys as error:
        raise HeadraceError(
            f"cannot read the API keys in {home.api_keys}",
            f"the file is damaged ({error})",
            "put it back from a copy; or remove it, and make all keys anew: ./headrace keys add",
        ) from error


def has_keys(home: Home) -> bool:
    """Whether the APIs ask for a key. Also if they cannot be read: whoever has lost them is not open for it."""
    try:
        return bool(read_keys(home))
    except HeadraceError:
        return True


def add_key(home: Home, client: str, scopes: Sequence[ScopeName], orders_per_s: int | None) -> str:
    """Add a key, and with the first one the stack's own. Returns the token. Raises HeadraceError."""
    home.create()
    with _locked(home):
        # One that got lost is made anew so, with this key: see _lost.
        keys = read_keys(home) if home.api_keys.exists() else []
        if not _is_revoked(home):
            keys = with_own_key(home, keys)
        token = new_token()
        write_keys(home, [*keys, make_key(token, client, scopes, orders_per_s)])
    return token


def remove_key(home: Home, key_id: str) -> tuple[ApiKey | None, list[ApiKey]]:
    """Remove the key with this id. Returns it and those that are left; None if there is none, or it is the last.

    The stack's own stays revoked: `add_key` does not make it anew. It comes back with `own_token`, for who needs it on
    this machine, and when the last other key goes: a file without keys opens the doors. Raises HeadraceError.
    """
    if not home.api_keys.exists():
        return None, read_keys(home)
    with _locked(home):
        keys = read_keys(home)
        found = next((key for key in keys if key.id == key_id), None)
        if found is None or (keys == [found] and found.client == OWN_CLIENT):
            return None, keys
        keys.remove(found)
        if found.client == OWN_CLIENT:
            write_private(home.own_api_key, REVOKED)
        write_keys(home, keys or with_own_key(home, []))
    return found, keys


def ensure_file(home: Home) -> None:
    """See to it that there is a file before the APIs start, which refuse to without one: if there never were keys, one
    that holds none. Their user can read it then, also one that came from a copy. Raises HeadraceError if it got lost.
    """
    with _locked(home):
        if not home.api_keys.exists():
            write_keys(home, read_keys(home))
        elif identity := services_identity():
            os.chown(home.api_keys, -1, identity.gid)
            home.api_keys.chmod(SHARED)


def forget_keys(home: Home) -> None:
    """Remove all keys, the stack's own among them: APIs that start from now on are open."""
    with _locked(home):
        write_keys(home, [])
        home.own_api_key.unlink(missing_ok=True)


def own_token(home: Home) -> str | None:
    """The token of the stack's own key, which is made anew if it got lost; None without keys, when nobody needs one.

    Raises HeadraceError.
    """
    if not read_keys(home):
        return None
    with _locked(home):
        keys = read_keys(home)
        if (complete := with_own_key(home, keys)) != keys:
            write_keys(home, complete)
    return _own_token(home)


def with_own_key(home: Home, keys: list[ApiKey]) -> list[ApiKey]:
    """`keys` if the stack's own is among them, else with a new one in the place of any that it lost the token of."""
    if _is_among(_own_token(home), keys):
        return keys
    token = new_token()
    write_private(home.own_api_key, token + "\n")
    return [make_key(token, OWN_CLIENT, SCOPES, None), *(key for key in keys if key.client != OWN_CLIENT)]


def make_key(token: str, client: str, scopes: Sequence[ScopeName], orders_per_s: int | None) -> ApiKey:
    """`token`: one of ours."""
    parts = parse_token(token)
    assert parts
    now = datetime.now(UTC).replace(microsecond=0)
    return ApiKey(parts[0], client, tuple(scopes), hash_secret(parts[1]), now, orders_per_s)


def write_keys(home: Home, keys: Sequence[ApiKey]) -> None:
    """The services' user reads the file by its group, and cannot write it. It holds hashes, and no secret."""
    identity = services_identity()
    write_private(home.api_keys, encode_keys(keys), group=identity.gid if identity else None)


def _lost(home: Home) -> HeadraceError:
    return HeadraceError(
        f"the API keys in {home.api_keys} are gone",
        f"there have been keys ({home.own_api_key} is the stack's own), and without the file all doors would open",
        "put it back from a copy; or make new keys: ./headrace keys add; or do without: ./headrace keys open",
    )


def _is_revoked(home: Home) -> bool:
    return _own_token(home) == REVOKED.strip()


def _own_token(home: Home) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return home.own_api_key.read_text().strip()
    return None


def _is_among(token: str | None, keys: Sequence[ApiKey]) -> bool:
    parts = parse_token(token or "")
    return parts is not None and any((key.id, key.secret_sha256) == (parts[0], hash_secret(parts[1])) for key in keys)


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[None]:
    """To read, change and write is one step: of two commands at once, neither loses its key."""
    descriptor = os.open(home.path / "api-keys.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
