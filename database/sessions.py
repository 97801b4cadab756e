"""How a connection to PostgreSQL is set up, whoever makes it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

from database.faults import Fault, cause_of, describe, fault_of
from pipeline.process import metrics

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# Sent when a session begins, so they outrank what the server, the database, the role and the URL say. Each is something
# that the pipeline rests on. The planner's settings, memory and `search_path` stay the operator's. Every one must be
# known to all supported versions of PostgreSQL: a server refuses a session that begins with a setting it does not know.
_SETTINGS = {
    # A batch is acknowledged and an answer given after the commit: it has to be on disk by then (P1), also on a server,
    # in a database or by a URL that has this off.
    "synchronous_commit": "on",
    # A batch that has waited for a product's lock must see what the holder has committed. Under repeatable read it
    # fails instead (40001) and is held: verdicts took 5 to 30 s.
    "default_transaction_isolation": "read committed",
    # Every session writes, or may have to. A server that cannot write refuses all the same: see `check_writable`.
    "default_transaction_read_only": "off",
    # asyncpg prepares every statement, and after five runs PostgreSQL keeps one plan for it. A plan made while the
    # tables were empty is a sequential scan, and it stays until an autoanalyze: product_consumer, asking for the
    # verdicts of a batch, went from 86 ms to 1.5 s (p50) within 90,000 orders. Planning each time costs 0.1 to 0.2 ms.
    "plan_cache_mode": "force_custom_plan",
    # Longer than any client of ours waits for an answer, so the client gives up first and says why. It ends what a
    # frozen client leaves behind in the middle of a COPY. A role's shorter limit would fail every batch larger than it
    # allows for, again and again.
    "statement_timeout": "60s",
    # Far longer than a neighbour's batch holds its locks. A session that waits longer waits for somebody's ALTER TABLE;
    # that is a fault, which is told and tried again. A role's limit of milliseconds would make a fault of every two
    # batches that share a product.
    "lock_timeout": "10s",
    # A client that is frozen in the middle of a transaction keeps its locks, and answers keepalives: its kernel does. A
    # batch takes a second at the most, and what is rolled back comes again.
    "idle_in_transaction_session_timeout": "30s",
    # Our sessions are idle between requests, and the one that listens for verdicts nearly always is.
    "idle_session_timeout": "0",
    # The second attempt at a batch with duplicates takes place in the session of the first. With this on, the first
    # refusal would end the session, for ever again.
    "exit_on_error": "off",
    # What asyncpg decodes, and what COPY's text means.
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    # Lets the server notice within 5 + 3 × 5 s that a client is gone without a word, and free its locks. The last one
    # is for a server that was just sending something: keepalives wait for that.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",
}
# Known from PostgreSQL 17 on, so set by a statement, there. A limit for whole transactions would end a session in the
# middle of a batch that waits for locks; the limits above bound each of its steps.
_FROM_17_ON = "SET transaction_timeout = 0"


def session_settings(application_name: str) -> dict[str, str]:
    """`server_settings` for asyncpg. `application_name`: what pg_stat_activity shows."""
    return _SETTINGS | {"application_name": application_name}


async def open_session(
    database_url: str,
    application_name: str,
    *,
    timeout_s: float,
    command_timeout_s: float | None = None,
    settings: Mapping[str, str] | None = None,
) -> "asyncpg.Connection[asyncpg.Record]":
    """A connection of its own. Raises TargetServerAttributeNotMatched where no server of the URL takes writes.

    `settings`: in place of those that are pinned here.
    """
    connection = await asyncpg.connect(
        database_url,
        timeout=timeout_s,
        command_timeout=command_timeout_s,
        server_settings={**session_settings(application_name), **(settings or {})},
        target_session_attrs=SessionAttribute.read_write,
    )
    try:
        await _begin(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


def make_pool(database_url: str, application_name: str, size: int, timeout_s: float) -> Pool:
    """A pool for an API. Connects when first needed, so that the process starts while PostgreSQL is away."""
    return asyncpg.create_pool(
        database_url,
        min_size=0,
        max_size=size,
        timeout=timeout_s,
        server_settings=session_settings(application_name),
        target_session_attrs=SessionAttribute.read_write,
        init=_begin,
        reset=_leave_as_it_is,
    )


async def _begin(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    if connection.get_server_version().major >= 17:
        await connection.execute(_FROM_17_ON)


async def _leave_as_it_is(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """In place of asyncpg's RESET ALL, which would undo `_begin` and costs a round trip for each use.

    Nothing of ours changes a session, and asyncpg itself rolls back what is left open.
    """


class StoreUnavailable(Exception):
    """PostgreSQL is away or too slow to answer, and nothing was changed."""


@asynccontextmanager
async def reading(pool: Pool, timeout_s: float) -> AsyncIterator[PooledConnection]:
    """`borrow`, for a block that only reads. Raises StoreUnavailable for whatever passes, see database.faults."""
    try:
        async with borrow(pool, timeout_s) as connection:
            yield connection
    except Exception as error:
        if fault_of(error) is not Fault.PASSING:
            raise
        raise StoreUnavailable(describe(error)) from error


@asynccontextmanager
async def borrow(pool: Pool, timeout_s: float) -> AsyncIterator[PooledConnection]:
    """A connection for the length of the block. The block is cancelled after `timeout_s`, waiting to get in included.

    Raises TimeoutError, at the latest after twice `timeout_s`. `pool.fetch` in an `asyncio.timeout` would not do: when
    it is cancelled, it waits without limit for the server to answer the cancellation, and a server that hangs never
    does (measured: 20 s and more). With a timeout in `acquire`, giving the connection back has one too.

    A connection whose server says that it cannot do the work is dropped, and with it all others of the pool.
    """
    try:
        async with asyncio.timeout(timeout_s), pool.acquire(timeout=timeout_s) as connection:
            try:
                yield connection
            except Exception as error:
                if fault_of(error) is Fault.PASSING and cause_of(error).spoils:
                    connection.terminate()
                    await pool.expire_connections()
                raise
    except Exception as error:
        count_fault(error)
        raise


async def check_writable(connection: "asyncpg.Connection[asyncpg.Record] | PooledConnection") -> None:
    """Raises ReadOnlySQLTransactionError if this server takes no writes: it has become a standby since we connected.

    Also a sign of life, for the price of `SELECT 1`.
    """
    if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
        raise asyncpg.ReadOnlySQLTransactionError("transaction_read_only is on")


def count_fault(error: BaseException) -> None:
    """Tell the metrics, if it is a fault of PostgreSQL."""
    if fault_of(error) is Fault.PASSING:
        metrics.SERVER_FAULTS.labels("postgresql", cause_of(error).name).inc()
