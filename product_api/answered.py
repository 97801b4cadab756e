"""Answers to requests with an Idempotency-Key: each is committed in one transaction with its change.

So a retry finds the answer if, and only if, the change was made. A lock on the key, held until the transaction ends,
tells a retry that the first request is still in flight.
"""

from hashlib import blake2b
from typing import NamedTuple

from database.sessions import PooledConnection as Connection
from web.problems import problems

# As long as ingest_api remembers its keys.
REMEMBER_S = 24 * 3600
# Expired answers that each new one deletes, oldest first: more go than come, and no request pays for a day's backlog.
_PRUNED_AT_ONCE = 10

_LOCK = "SELECT pg_try_advisory_xact_lock($1)"
_FIND = """
    SELECT request, status, product_id::text, version, body FROM product_requests
    WHERE client = $1 AND key = $2 AND answered_at > clock_timestamp() - $3 * interval '1 second'
"""
_REMEMBER = """
    INSERT INTO product_requests (client, key, request, status, product_id, version, body)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (client, key) DO UPDATE SET request = excluded.request, status = excluded.status,
        product_id = excluded.product_id, version = excluded.version, body = excluded.body,
        answered_at = excluded.answered_at
"""
_PRUNE = """
    DELETE FROM product_requests WHERE (client, key) IN (
        SELECT client, key FROM product_requests WHERE answered_at < clock_timestamp() - $1 * interval '1 second'
        ORDER BY answered_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )
"""


class KeyedRequest(NamedTuple):
    """A request that came with a key."""

    client: str
    key: str
    request: bytes
    """A digest of what is asked for, the same in each retry."""
    status: int
    """The status of its answer."""

    @property
    def lock(self) -> int:
        """The number of the key's advisory lock. Two keys that share one by chance may get a needless 409."""
        digest = blake2b(f"{self.client}:{self.key}".encode(), digest_size=8, person=b"product request").digest()
        return int.from_bytes(digest, "big", signed=True)


class Answer(NamedTuple):
    """The stored answer to a request."""

    status: int
    product_id: str
    version: int
    body: bytes


class AnsweredBefore(Exception):
    """The request was carried out before: this was its answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


def digest_of(*asked: object) -> bytes:
    """Identifies a request under its key: a digest of what it asks for, not of how it is written."""
    return blake2b(repr(asked).encode(), digest_size=16).digest()


# ── I/O below: in the transaction of the change


async def begin(connection: Connection, keyed: KeyedRequest) -> None:
    """Lock the key. Raises AnsweredBefore, and Problem: 409 while it is locked, 422 if it came with another request."""
    if not await connection.fetchval(_LOCK, keyed.lock):
        raise problems.request_in_flight()
    row = await connection.fetchrow(_FIND, keyed.client, keyed.key, REMEMBER_S)
    if row is None:
        return
    request, *answer = row
    if request != keyed.request:
        raise problems.key_reused()
    raise AnsweredBefore(Answer(*answer))


async def remember(connection: Connection, keyed: KeyedRequest, product_id: str, version: int, body: bytes) -> None:
    """Store the answer, and delete some that have expired."""
    answer = keyed.status, product_id, version, body
    await connection.execute(_REMEMBER, keyed.client, keyed.key, keyed.request, *answer)
    await connection.execute(_PRUNE, REMEMBER_S, _PRUNED_AT_ONCE)
