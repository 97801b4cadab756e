"""The tables of hooks: the relay that holds each, its cursor, and the results of the last attempts.

Two relays share the hooks by leases. A relay that takes a hook writes its own id into the row, and until when; it sends
only while that time has not passed, by its own clock, which it read before PostgreSQL began the lease. So of two
relays, one sends.

What a relay writes about a hook is fenced: it changes nothing if the row has another holder by now, or another cursor
than the relay has last written. So a relay that was frozen past its lease moves no cursor back, and a replay that an
operator asked for is not overwritten.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from database.connection import Connection
from database.faults import Fault, fault_of
from database.sessions import Pool, PooledConnection, reading
from event_relay.destinations import Destination, Refused, destination_of
from event_relay.leases import LEASE_S
from event_relay.requests import Request
from event_relay.retry import Answer
from event_relay.signing import InvalidSecret, key_of

KEPT_ATTEMPTS = 20

# The newest secret first.
_READ = """
    SELECT id::text, url, types, product_id::text, batch, delivered, pause_reason, failing_since, failures, last_error,
        extract(epoch FROM retry_at - clock_timestamp())::float8 AS retry_in_s, test_wanted_at, holder::text,
        holder IS NULL OR held_until < clock_timestamp() AS is_free,
        ARRAY(
            SELECT secret FROM hook_secrets s
            WHERE s.hook_id = h.id AND (expires_at IS NULL OR expires_at > clock_timestamp())
            ORDER BY created_at DESC
        ) AS secrets
    FROM hooks h ORDER BY created_at, id
"""
_TAKE = """
    UPDATE hooks SET holder = $1, held_until = clock_timestamp() + make_interval(secs => $3)
    WHERE id = ANY($2::uuid[]) AND (holder IS NULL OR holder = $1 OR held_until < clock_timestamp())
    RETURNING id::text
"""
_RELEASE = "UPDATE hooks SET holder = NULL, held_until = NULL WHERE holder = $1"
_FORGET_SECRETS = "DELETE FROM hook_secrets WHERE expires_at < clock_timestamp()"
# A failure's pause and wait are written once: failing_since and failures tell whether the row has them already. The
# answer to that write may be lost, and an operator may resume the hook before it is repeated.
_IS_NEW = "(h.failing_since, h.failures) IS DISTINCT FROM (n.failing_since, n.failures)"
_SAVE = f"""
    UPDATE hooks h SET delivered = n.delivered,
        delivered_at = CASE WHEN n.has_delivered THEN clock_timestamp() ELSE h.delivered_at END,
        failing_since = n.failing_since, failures = n.failures, last_error = n.last_error,
        retry_at = CASE WHEN {_IS_NEW} THEN clock_timestamp() + make_interval(secs => n.retry_in_s) ELSE h.retry_at END,
        pause_reason = CASE WHEN {_IS_NEW} THEN coalesce(h.pause_reason, n.pauses_with) ELSE h.pause_reason END
    FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::boolean[], $6::timestamptz[], $7::integer[], $8::text[],
        $9::float8[], $10::text[])
        AS n (id, expected, delivered, has_delivered, failing_since, failures, last_error, retry_in_s, pauses_with)
    WHERE h.id = n.id AND h.holder = $1 AND h.delivered = n.expected AND n.delivered >= n.expected
    RETURNING h.id::text
"""
_TELL = """
    INSERT INTO hook_attempts
        (hook_id, attempted_at, first_offset, last_offset, events, status, took_ms, answer, error)
    SELECT a.* FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::integer[], $6::integer[],
        $7::integer[], $8::text[], $9::text[]) AS a (hook_id)
    JOIN hooks h ON h.id = a.hook_id
"""
_FORGET_ATTEMPTS = f"""
    DELETE FROM hook_attempts a USING unnest($1::uuid[]) AS of_hook (id)
    WHERE a.hook_id = of_hook.id AND a.id <= (
        SELECT id FROM hook_attempts WHERE hook_id = of_hook.id ORDER BY id DESC OFFSET {KEPT_ATTEMPTS} LIMIT 1
    )
"""
_TESTED = "UPDATE hooks SET test_wanted_at = NULL WHERE id = $1 AND test_wanted_at = $2"


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook as somebody made it."""

    id: str
    types: frozenset[str] | None
    """None: all."""
    product_id: str | None
    """None: all."""
    batch: int
    destination: Destination | None
    keys: tuple[bytes, ...] = field(repr=False)
    """Of the secrets that sign now, the newest first."""
    problem: str | None
    """Why nothing can be sent to it, whatever its receiver does."""

    @classmethod
    def of(cls, row: Any, *, allow_private: bool) -> "Hook":
        types = frozenset(row["types"]) if row["types"] is not None else None
        destination: Destination | None = None
        keys: tuple[bytes, ...] = ()
        problem: str | None = None
        try:
            destination = destination_of(row["url"], allow_private=allow_private)
            keys = tuple(key_of(it) for it in row["secrets"])
            problem = None if keys else "the hook has no secret"
        except (Refused, InvalidSecret) as error:
            problem = str(error)
        return cls(row["id"], types, row["product_id"], row["batch"], destination, keys, problem)


@dataclass(slots=True)
class Standing:
    """How far a hook is. Its sender changes it, and it is written down a little later."""

    hook_id: str
    saved: int
    """The cursor in the row."""
    delivered: int
    pause_reason: str | None
    """Whoever paused it: an operator, in the row, or the sender."""
    failing_since: datetime | None
    failures: int
    last_error: str | None
    retry_in_s: float | None
    """When it was read, or when the attempt failed."""
    has_delivered: bool = False
    """Whether anything was delivered since it was last written down."""
    pauses_with: str | None = None
    """Why the sender itself has paused it; None once that is written down. A second time, it could undo a resume."""
    is_lost: bool = False
    """Whether another relay holds the hook, or an operator moved its cursor. This relay writes nothing more."""

    @classmethod
    def of(cls, row: Any) -> "Standing":
        return cls(
            hook_id=row["id"],
            saved=row["delivered"],
            delivered=row["delivered"],
            pause_reason=row["pause_reason"],
            failing_since=row["failing_since"],
            failures=row["failures"],
            last_error=row["last_error"],
            retry_in_s=row["retry_in_s"],
        )


@dataclass(frozen=True, slots=True)
class HookRow:
    """What one look at a row found."""

    hook: Hook
    standing: Standing
    test_wanted_at: datetime | None
    holder: str | None
    is_free: bool
    """Whether nobody holds it now."""

    @property
    def is_due(self) -> bool:
        """Whether somebody must hold it: to send, or to send a test event, which a paused hook gets as well."""
        return self.standing.pause_reason is None or self.test_wanted_at is not None

    @property
    def state(self) -> str:
        if self.standing.pause_reason is not None:
            return "paused"
        return "failing" if self.standing.failing_since is not None else "active"


@dataclass(frozen=True, slots=True)
class Attempt:
    hook_id: str
    at: datetime
    request: Request
    answer: Answer


# ── I/O below


class HookStore:
    def __init__(self, holder: str, pool: Pool, timeout_s: float, *, allow_private: bool) -> None:
        """`holder`: this process's id, a UUID. `pool`: for what senders write."""
        self.holder, self._pool, self._timeout_s, self._allow_private = holder, pool, timeout_s, allow_private

    async def read(self, connection: Connection) -> list[HookRow]:
        """All hooks."""
        return [
            HookRow(
                hook=Hook.of(row, allow_private=self._allow_private),
                standing=Standing.of(row),
                test_wanted_at=row["test_wanted_at"],
                holder=row["holder"],
                is_free=row["is_free"],
            )
            for row in await connection.fetch(_READ)
        ]

    async def take(self, connection: Connection, hook_ids: Collection[str]) -> set[str]:
        """Begin or extend leases. Returns the ids of the hooks that this process holds now."""
        return {row["id"] for row in await connection.fetch(_TAKE, self.holder, list(hook_ids), LEASE_S)}

    async def forget_secrets(self, connection: Connection) -> None:
        """Delete the secrets that no longer sign."""
        await connection.execute(_FORGET_SECRETS)

    async def release_all(self) -> None:
        """End all leases of this process, so that another need not wait until they have passed.

        Raises StoreUnavailable, as all that follows.
        """
        async with reading(self._pool, self._timeout_s) as connection:
            await connection.execute(_RELEASE, self.holder)

    async def save(self, standings: Sequence[Standing]) -> set[str]:
        """Write down how far hooks are, in one statement. Returns the ids of those that were not somebody else's."""
        rows = [
            (
                it.hook_id,
                it.saved,
                it.delivered,
                it.has_delivered,
                it.failing_since,
                it.failures,
                it.last_error,
                it.retry_in_s,
                it.pauses_with,
            )
            for it in standings
        ]
        async with reading(self._pool, self._timeout_s) as connection:
            saved = await connection.fetch(_SAVE, self.holder, *map(list, zip(*rows, strict=True)))
        return {row["id"] for row in saved}

    async def tell(self, attempts: Sequence[Attempt]) -> None:
        """Write down what came of attempts, and forget the oldest."""
        async with reading(self._pool, self._timeout_s) as connection:
            await _tell(connection, attempts)

    async def tell_test(self, attempt: Attempt, wanted_at: datetime) -> None:
        """Write down what came of a test event, so that it is not sent again."""
        async with reading(self._pool, self._timeout_s) as connection, connection.transaction():
            await _tell(connection, [attempt])
            await connection.execute(_TESTED, attempt.hook_id, wanted_at)


async def _tell(connection: PooledConnection, attempts: Sequence[Attempt]) -> None:
    rows = [
        (
            it.hook_id,
            it.at,
            it.request.first_offset,
            it.request.last_offset,
            it.request.events,
            it.answer.status,
            round(it.answer.took_s * 1000),
            _text(it.answer.first_bytes),
            it.answer.error,
        )
        for it in attempts
    ]
    try:
        await connection.execute(_TELL, *map(list, zip(*rows, strict=True)))
    except asyncpg.PostgresError as error:
        if fault_of(error) is not Fault.DATA:  # somebody removes the hook in this moment
            raise
    else:
        await connection.execute(_FORGET_ATTEMPTS, list({it.hook_id for it in attempts}))


def _text(answered: bytes) -> str:
    """For people, and for PostgreSQL, whose text takes no NUL."""
    return answered.decode(errors="replace").replace("\0", "�")
