"""The file of API keys, and the stack's own key.

From the first key on, the APIs refuse requests without one, and the seeds and the demo are clients like others. So the
first key brings another: one of the client `headrace`. Its token lies beside the file, readable only by the owner.

That token also proves that keys existed. If the file is missing then, it was lost, and nothing starts until an operator
restores it, creates new keys, or opens the APIs.
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
# Instead of the token: the stack's own key was revoked.
REVOKED = "revoked\n"


def read_keys(home: Home) -> list[ApiKey]:
    """All keys; [] if there never were any. Raises HeadraceError if the file is damaged or lost."""
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
            "restore it from a copy; or delete it and create all keys again: ./headrace keys add",
        ) from error


def has_keys(home: Home) -> bool:
    """Whether the APIs ask for a key. True if the file cannot be read: losing it does not open them."""
    try:
        return bool(read_keys(home))
    except HeadraceError:
        return True


def add_key(home: Home, client: str, scopes: Sequence[ScopeName], orders_per_s: int | None) -> str:
    """Add a key, and with the first one the stack's own key. Returns the token. Raises HeadraceError."""
    home.create()
    with _locked(home):
        # A lost file is replaced by a new one with this key, see _lost.
        keys = read_keys(home) if home.api_keys.exists() else []
        if not _is_revoked(home):
            keys = with_own_key(home, keys)
        token = new_token()
        write_keys(home, [*keys, make_key(token, client, scopes, orders_per_s)])
    return token


def remove_key(home: Home, key_id: str) -> tuple[ApiKey | None, list[ApiKey]]:
    """Remove the key with this id. Returns it, and the keys that are left. None: no such key, or it is the last one.

    If it is the stack's own key, `add_key` does not create a new one. `own_token` does, and so does the removal of
    the last other key: a file without keys opens the APIs. Raises HeadraceError.
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
    """Create an empty key file if there never were keys: the APIs do not start without one.

    Lets the services' user read the file, even if it came from a copy. Raises HeadraceError if it was lost.
    """
    with _locked(home):
        if not home.api_keys.exists():
            write_keys(home, read_keys(home))
        elif identity := services_identity():
            os.chown(home.api_keys, -1, identity.gid)
            home.api_keys.chmod(SHARED)


def forget_keys(home: Home) -> None:
    """Remove all keys, the stack's own included. APIs that start from now on are open."""
    with _locked(home):
        write_keys(home, [])
        home.own_api_key.unlink(missing_ok=True)


def own_token(home: Home) -> str | None:
    """The token of the stack's own key; a lost one is replaced. None if there are no keys, so none is needed.

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
    """`keys` with the stack's own. If its token is lost, a new key replaces the old one."""
    if _is_among(_own_token(home), keys):
        return keys
    token = new_token()
    write_private(home.own_api_key, token + "\n")
    return [make_key(token, OWN_CLIENT, SCOPES, None), *(key for key in keys if key.client != OWN_CLIENT)]


def make_key(token: str, client: str, scopes: Sequence[ScopeName], orders_per_s: int | None) -> ApiKey:
    """The key of a `token` that new_token made."""
    parts = parse_token(token)
    assert parts
    now = datetime.now(UTC).replace(microsecond=0)
    return ApiKey(parts[0], client, tuple(scopes), hash_secret(parts[1]), now, orders_per_s)


def write_keys(home: Home, keys: Sequence[ApiKey]) -> None:
    """Write the file. The services' user may read it by its group, not write it. It holds hashes, and no secret."""
    identity = services_identity()
    write_private(home.api_keys, encode_keys(keys), group=identity.gid if identity else None)


def _lost(home: Home) -> HeadraceError:
    return HeadraceError(
        f"the API keys in {home.api_keys} are gone",
        f"there were keys ({home.own_api_key} is the stack's own), and without the file the APIs would be open",
        "restore it from a copy; or create new keys: ./headrace keys add; or do without: ./headrace keys open",
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
    """Hold the lock from reading to writing, so that of two commands at once neither loses its key."""
    descriptor = os.open(home.path / "api-keys.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
