"""SQL of `./headrace hooks`. The operator's role can write secrets and cannot read them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.contract.hooks import CHANGED, OLD_SECRET_SIGNS_FOR
from proof.accounting_sql import Connection


@dataclass(frozen=True, slots=True)
class Hook:
    id: str
    url: str
    types: list[str] | None
    product_id: str | None
    batch: int
    created_at: datetime
    delivered: int
    """The offset up to which the hook has been told of everything."""
    delivered_at: datetime | None
    pause_reason: str | None
    failing_since: datetime | None
    failures: int
    last_error: str | None
    retry_at: datetime | None
    is_held: bool
    """Whether an event_relay has this hook in its care now."""
    log_id: int
    behind: int
    """How many events of the log the hook has not been told of yet."""
    behind_s: float | None
    """How long ago the first of them happened. None: there is none, or it has no offset yet."""


@dataclass(frozen=True, slots=True)
class NewHook:
    url: str
    types: list[str] | None
    product_id: str | None
    batch: int
    delivered: int
    secret: str


@dataclass(frozen=True, slots=True)
class Attempt:
    id: int
    attempted_at: datetime
    first_offset: int | None
    """None: it was a test event."""
    last_offset: int | None
    events: int
    status: int | None
    """Of the answer. None: there was none."""
    took_ms: int
    answer: str
    error: str | None

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class SecretDates:
    """All that the operator's role may see of a secret."""

    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Log:
    id: int
    last_offset: int


# Events that are committed and have no offset yet count as well: a hook is behind them, too.
_WAITING = "SELECT coalesce(sum(size), 0)::bigint AS size FROM event_batches WHERE first_offset IS NULL"
_SELECT = f"""
    SELECT h.id::text, h.url, h.types, h.product_id::text, h.batch, h.created_at, h.delivered, h.delivered_at,
        h.pause_reason, h.failing_since, h.failures, h.last_error, h.retry_at,
        coalesce(h.held_until > clock_timestamp(), false) AS is_held, l.id AS log_id,
        greatest(l.last_offset + w.size - h.delivered, 0) AS behind,
        CASE WHEN h.delivered < l.last_offset THEN (
            SELECT extract(epoch FROM clock_timestamp() - b.numbered_at)::float8 FROM event_batches b
            WHERE b.first_offset <= h.delivered + 1 ORDER BY b.first_offset DESC LIMIT 1
        ) END AS behind_s
    FROM hooks h CROSS JOIN event_log l CROSS JOIN ({_WAITING}) AS w
"""
_LIST = f"{_SELECT} ORDER BY h.created_at, h.id"
_FIND = f"{_SELECT} WHERE starts_with(h.id::text, $1) ORDER BY h.id LIMIT 2"
_HAS_PRODUCT = "SELECT EXISTS (SELECT FROM products WHERE id = $1)"
_ADD = """
    INSERT INTO hooks (url, types, product_id, batch, delivered, test_wanted_at)
    VALUES ($1, $2, $3, $4, $5, clock_timestamp()) RETURNING id::text
"""
_SIGN_WITH = "INSERT INTO hook_secrets (hook_id, secret) VALUES ($1, $2)"
# The hook's row is locked first. Otherwise, of two rotations at once, one would insert a second current secret.
_LOCK = "SELECT FROM hooks WHERE id = $1 FOR UPDATE"
_EXPIRE = """
    UPDATE hook_secrets SET expires_at = clock_timestamp() + $2 WHERE hook_id = $1 AND expires_at IS NULL
    RETURNING expires_at
"""
_SECRETS = "SELECT created_at, expires_at FROM hook_secrets WHERE hook_id = $1 ORDER BY created_at DESC"
_ATTEMPT = """
    SELECT id, attempted_at, first_offset, last_offset, events, status, took_ms, answer, error FROM hook_attempts
    WHERE hook_id = $1
"""
_ATTEMPTS = f"{_ATTEMPT} ORDER BY id DESC LIMIT $2"
_TESTED = f"{_ATTEMPT} AND id > $2 AND first_offset IS NULL ORDER BY id LIMIT 1"
_WANT_TEST = """
    UPDATE hooks SET test_wanted_at = clock_timestamp() WHERE id = $1
    RETURNING (SELECT coalesce(max(id), 0) FROM hook_attempts WHERE hook_id = $1)
"""
_PAUSE = "UPDATE hooks SET pause_reason = $2 WHERE id = $1"
_RESUME = "UPDATE hooks SET pause_reason = NULL, retry_at = NULL WHERE id = $1"
# event_relay moves the cursor only from where it read it. So a request under way does not undo this.
_MOVE = """
    UPDATE hooks h SET delivered = $2, retry_at = NULL
    FROM (SELECT id, delivered FROM hooks WHERE id = $1 FOR UPDATE) AS before
    WHERE h.id = before.id RETURNING before.delivered
"""
_REMOVE = "DELETE FROM hooks WHERE id = $1 RETURNING true"
_LOG = f"SELECT l.id, l.last_offset, l.last_offset + w.size FROM event_log l CROSS JOIN ({_WAITING}) AS w"
# As database/event_log.py, which the stack may not import.
_NUMBER = "SELECT number_events(5000)"
_AT = """
    SELECT coalesce((
        SELECT first_offset - 1 FROM event_batches WHERE first_offset IS NOT NULL AND numbered_at >= $1
        ORDER BY numbered_at, first_offset LIMIT 1
    ), last_offset) FROM event_log
"""


async def list_hooks(connection: Connection) -> list[Hook]:
    """All hooks, the oldest first."""
    return [_hook(row) for row in await connection.fetch(_LIST)]


async def find_hooks(connection: Connection, prefix: str) -> list[Hook]:
    """The hooks whose ids begin with `prefix`, at most two."""
    return [_hook(row) for row in await connection.fetch(_FIND, prefix)]


async def has_product(connection: Connection, product_id: str) -> bool:
    found: bool = await connection.fetchval(_HAS_PRODUCT, product_id)
    return found


async def add_hook(connection: Connection, new: NewHook) -> str:
    """Store a hook and its secret, and ask for a test event. Returns its id."""
    async with connection.transaction():
        values = (new.url, new.types, new.product_id, new.batch, new.delivered)
        hook_id: str = await connection.fetchval(_ADD, *values)
        await connection.execute(_SIGN_WITH, hook_id, new.secret)
        await _tell_relay(connection)
    return hook_id


async def rotate_secret(connection: Connection, hook_id: str, secret: str) -> datetime:
    """Make `secret` the current one. Returns until when the old one signs as well."""
    async with connection.transaction():
        await connection.execute(_LOCK, hook_id)
        expires_at: datetime = await connection.fetchval(_EXPIRE, hook_id, OLD_SECRET_SIGNS_FOR)
        await connection.execute(_SIGN_WITH, hook_id, secret)
        await _tell_relay(connection)
    return expires_at


async def secrets_of(connection: Connection, hook_id: str) -> list[SecretDates]:
    """The latest first."""
    return [SecretDates(*row) for row in await connection.fetch(_SECRETS, hook_id)]


async def attempts_of(connection: Connection, hook_id: str, limit: int) -> list[Attempt]:
    """The latest first."""
    return [Attempt(*row) for row in await connection.fetch(_ATTEMPTS, hook_id, limit)]


async def want_test(connection: Connection, hook_id: str) -> int:
    """Ask event_relay for a test event. Returns the id of the last attempt before it."""
    async with connection.transaction():
        last: int = await connection.fetchval(_WANT_TEST, hook_id)
        await _tell_relay(connection)
    return last


async def tested(connection: Connection, hook_id: str, after: int) -> Attempt | None:
    """The first test event that was sent after the attempt `after`; None: there is none yet."""
    row = await connection.fetchrow(_TESTED, hook_id, after)
    return None if row is None else Attempt(*row)


async def pause_hook(connection: Connection, hook_id: str, reason: str) -> None:
    await _change(connection, _PAUSE, hook_id, reason)


async def resume_hook(connection: Connection, hook_id: str) -> None:
    """End the pause, and let the next attempt come at once."""
    await _change(connection, _RESUME, hook_id)


async def move_hook(connection: Connection, hook_id: str, offset: int) -> int:
    """Let the hook go on after `offset`. Returns the offset up to which it had been told."""
    before: int = await _change(connection, _MOVE, hook_id, offset)
    return before


async def remove_hook(connection: Connection, hook_id: str) -> None:
    """Delete the hook with its secrets and its attempts."""
    await _change(connection, _REMOVE, hook_id)


async def numbered_log(connection: Connection) -> Log:
    """The log, once everything that is committed now has its offset. Call it outside a transaction."""
    log_id, last, end = await connection.fetchrow(_LOG) or (0, 0, 0)
    while last < end and (numbered := await connection.fetchval(_NUMBER)) > last:
        last = numbered
    return Log(log_id, last)


async def now(connection: Connection) -> datetime:
    """By the clock that times the log."""
    moment: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return moment


async def offset_at(connection: Connection, since: datetime) -> int:
    """The offset after which everything lies that was committed at `since` or later."""
    offset: int = await connection.fetchval(_AT, since)
    return offset


async def _change(connection: Connection, statement: str, *values: object) -> Any:
    async with connection.transaction():
        result = await connection.fetchval(statement, *values)
        await _tell_relay(connection)
    return result


async def _tell_relay(connection: Connection) -> None:
    await connection.execute("SELECT pg_notify($1, '')", CHANGED)


def _hook(row: Any) -> Hook:
    return Hook(**{name: row[name] for name in Hook.__slots__})
