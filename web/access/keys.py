"""API keys and scopes: keys from a file, verified at each request, read again when the file changes.

Without keys the service is open to everybody. It says so at its start, and may be open on the loopback only. Having no
keys must be explicit: no file is named, or the file holds no keys. A file that is named and missing keeps the service
from starting, because it may have held keys; a crash must not open a closed service.

Once a service has seen a key, it never opens again while it runs: a file that was emptied or removed lets nobody in.
Whatever else goes wrong with the file later, the last good keys stay.
"""

import asyncio
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import structlog

from pipeline.contract.api_keys import ApiKey, InvalidKeys, decode_keys, hash_secret, parse_token
from pipeline.process import metrics
from pipeline.process.lifecycle import Misconfigured
from web.access.clients import ANY_KEY, ANYONE, PUBLIC, Client
from web.access.hosts import Hosts, is_loopback
from web.access.settings import ApiSettings
from web.problems import problems
from web.problems.problems import Problem

log = structlog.get_logger()

_RELOAD_EVERY_S = 1.0

# The scheme in any case (RFC 9110, section 11.1), then the token as RFC 6750 spells it.
_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_IS_BEARER = re.compile(rb"bearer(?: |$)", re.IGNORECASE)

_HOW = "Send Authorization: Bearer KEY; ./headrace keys add makes a key."

_Version: TypeAlias = tuple[int, int, int] | None
"""Tells one state of the file from another; None: there is no file."""
_OUT_OF_REACH: _Version = (-1, -1, -1)


@dataclass(frozen=True, slots=True)
class _IndexedKey:
    """A key as a look-up by id finds it."""

    secret_sha256: str
    client: Client


# An unknown id is compared with this, so that it is answered no faster than a wrong secret.
_NOBODY = _IndexedKey("0" * 64, Client("", frozenset()))


def bearer_token(authorizations: Sequence[bytes]) -> str:
    """The token in a request's Authorization headers. Raises Problem (401), which never quotes what was sent: it may be
    a secret.
    """
    if not authorizations:
        raise problems.unauthenticated(f"The request has no API key. {_HOW}")
    if len(authorizations) > 1:
        raise problems.invalid_token("There is more than one Authorization header. Send one.")
    match = _BEARER.fullmatch(authorizations[0])
    if match is None:
        # Another scheme is not an attempt with a key, so the challenge has no error.
        refuse = problems.invalid_token if _IS_BEARER.match(authorizations[0]) else problems.unauthenticated
        raise refuse(f"The Authorization header has no API key. {_HOW}")
    return match[1].decode()


# ── I/O below


class Keys:
    """The API keys that a service knows."""

    def __init__(self, path: Path | None) -> None:
        """`path`: the key file; None: no keys. Raises InvalidKeys, OSError, also if the file is missing."""
        self._path = path
        self._version = self._look()
        self._known = _by_id(self._read())
        self.is_open = not self._known
        """Whether requests need no key."""

    def guard(self, authorizations: Sequence[bytes], needs: str) -> Client:
        """The client of a request with these Authorization headers, if it has what the operation `needs`: a scope,
        ANY_KEY or PUBLIC. ANYONE while the service is open. Raises Problem (401, 403).
        """
        if self.is_open or needs == PUBLIC:  # 0.1 µs, for each order of an open service
            return ANYONE
        try:
            client = self.client_with(bearer_token(authorizations))
            if needs not in client.scopes and needs != ANY_KEY:
                raise problems.forbidden(needs)
        except Problem as problem:
            metrics.REQUESTS_DENIED.labels(problem.name).inc()
            raise
        return client

    def client_with(self, token: str) -> Client:
        """The client that the token belongs to. Raises Problem (401)."""
        key_id, secret = parse_token(token) or ("", "")
        known = self._known.get(key_id, _NOBODY)
        is_right = hmac.compare_digest(hash_secret(secret), known.secret_sha256)
        if known is _NOBODY or not is_right:
            raise problems.invalid_token(f"This API key is not known, or was revoked. {_HOW}")
        return known.client

    async def watch(self) -> None:
        """Check about once a second whether the file has changed, until cancelled. A check costs 3 µs."""
        while True:
            await asyncio.sleep(_RELOAD_EVERY_S)
            self.reload()

    def reload(self) -> None:
        """Read the file again if it has changed. Never raises for its content."""
        try:
            version = self._look()
            if version == self._version:
                return
            # Noted before the file is read, so that a write meanwhile is seen the next time. Noted also if it cannot be
            # read, so that each fault is logged once.
            self._version = version
            self._replace({} if _is_gone(version) else _by_id(self._read()))
        except (InvalidKeys, OSError) as error:
            state = "the service stays open" if self.is_open else "the last good keys stay"
            log.error(f"cannot read the API keys; {state}", path=str(self._path), error=str(error))

    def _replace(self, known: dict[str, _IndexedKey]) -> None:
        self._known = known
        if known:
            self.is_open = False
            log.info("API keys read", keys=len(known))
        elif not self.is_open:
            why = "the API keys are gone: every request is refused until the file has a key, or until a restart"
            log.error(why, path=str(self._path))

    def _look(self) -> _Version:
        try:
            found = self._path.stat() if self._path else None
        except FileNotFoundError:
            return None
        except OSError:
            return _OUT_OF_REACH  # reading it fails likewise, and says why
        return (found.st_mtime_ns, found.st_ino, found.st_size) if found else None

    def _read(self) -> list[ApiKey]:
        return decode_keys(self._path.read_bytes()) if self._path else []


def _is_gone(version: _Version) -> bool:
    """Whether the file is missing or empty. An empty one is damaged at a start; later, somebody has emptied it."""
    return version is None or version[2] == 0


def load_keys(settings: ApiSettings) -> Keys:
    """Load the keys at start. Raises Misconfigured if they are gone or cannot be read, or if the service would be open
    beyond this machine without being told to.
    """
    try:
        keys = Keys(settings.api_keys_file)
    except FileNotFoundError:
        raise Misconfigured(
            f"API_KEYS_FILE: {settings.api_keys_file} is not there, and without its keys the service would be open. Put"
            " it back from a copy; or make new keys with ./headrace keys add; or, if there are to be none, write"
            ' {"keys": []} into it'
        ) from None
    except (InvalidKeys, OSError) as error:
        raise Misconfigured(
            f"API_KEYS_FILE: {settings.api_keys_file} cannot be read: {error}. Put it back from a copy;"
            " or remove it, and make new keys with ./headrace keys add"
        ) from None
    if keys.is_open:
        _say_open(settings)
    return keys


def hosts_of(settings: ApiSettings, keys: Keys) -> Hosts:
    """The names that the service answers to. Any, once there are keys, or if other machines reach it."""
    is_local = is_loopback(settings.reached_on) and not settings.allow_unauthenticated_access_from_anywhere
    return Hosts(settings.allowed_host_names, lambda: is_local and keys.is_open)


def _say_open(settings: ApiSettings) -> None:
    where = settings.reached_on
    if not (is_loopback(where) or settings.allow_unauthenticated_access_from_anywhere):
        raise Misconfigured(
            f"there are no API keys, and on {where} anybody could send orders. Make a key with"
            " ./headrace keys add and name its file in API_KEYS_FILE; or listen on 127.0.0.1; or, if whatever is in"
            " front of the service sees to who gets in, set ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE=true"
        )
    log.warning(f"no API keys: open to everybody on {where}", api_keys_file=str(settings.api_keys_file or ""))


def _by_id(keys: list[ApiKey]) -> dict[str, _IndexedKey]:
    return {
        key.id: _IndexedKey(key.secret_sha256, Client(key.client, frozenset(key.scopes), key.orders_per_s))
        for key in keys
    }
