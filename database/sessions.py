"""PostgreSQL sessions and pools, and the settings that every one of them begins with."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

from database.faults import Fault, cause_of, describe, fault_of
from pipeline.process import metrics

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# Sent when a session begins, so they outrank the server, the database, the role and the URL. The pipeline relies on
# each of them. Planner settings, memory and `search_path` stay the operator's. All supported versions of PostgreSQL
# must know every one: a server refuses a session that begins with a setting it does not know.
_SETTINGS = {
    # Acks and answers follow the commit, so it must be on disk by then (P1). Overrides a server, a database or a URL
    # that turns this off.
    "synchronous_commit": "on",
    # A batch that waited for a product's lock must see what the holder committed. Under repeatable read it fails
    # instead (40001) and is held: verdicts took 5 to 30 s.
    "default_transaction_isolation": "read committed",
    # Every session may have to write. A server that cannot write still refuses: see `check_writable`.
    "default_transaction_read_only": "off",
    # asyncpg prepares every statement, and PostgreSQL keeps one plan for it after five runs. A plan made on empty
    # tables is a sequential scan, and stays until an autoanalyze. product_consumer's query for the verdicts of a batch
    # went from 86 ms to 1.5 s (p50) within 90,000 orders. Planning each time costs 0.1 to 0.2 ms.
    "plan_cache_mode": "force_custom_plan",
    # Longer than any client of ours waits, so the client gives up first and says why. The limit ends a COPY that a
    # frozen client left half done. A role's shorter limit would fail every batch that takes longer, again and again.
    "statement_timeout": "60s",
    # Far longer than another batch holds its locks. A session that waits longer waits for an ALTER TABLE: a fault, to
    # report and retry. A role's limit of milliseconds would turn any two batches that share a product into a fault.
    "lock_timeout": "10s",
    # A client that freezes inside a transaction keeps its locks, while its kernel still answers keepalives. A batch
    # takes a second at most, and a batch rolled back is delivered again.
    "idle_in_transaction_session_timeout": "30s",
    # Sessions are idle between requests; the one that listens for verdicts nearly always is.
    "idle_session_timeout": "0",
    # A batch with duplicates gets its second attempt in the same session. With this on, the first refusal would end the
    # session, again and again.
    "exit_on_error": "off",
    # asyncpg's decoding and the text of COPY depend on these.
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    # The server notices within 5 + 3 × 5 s that a client vanished, and frees its locks. tcp_user_timeout covers a
    # server that was sending at the time: keepalives wait for that.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",
}
# Only PostgreSQL 17 and later know it, so a statement sets it there. A limit for whole transactions would end a batch
# that waits for locks; the limits above bound each of its steps.
_FROM_17_ON = "SET transaction_timeout = 0"


def session_settings(application_name: str) -> dict[str, str]:
    """asyncpg's `server_settings`. `application_name`: what pg_stat_activity shows."""
    return _SETTINGS | {"application_name": application_name}


async def open_session(
    database_url: str,
    application_name: str,
    *,
    timeout_s: float,
    command_timeout_s: float | None = None,
    settings: Mapping[str, str] | None = None,
) -> "asyncpg.Connection[asyncpg.Record]":
    """Open one connection. Raises TargetServerAttributeNotMatched if no server of the URL takes writes.

    `settings`: override those pinned here.
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


@asynccontextmanager
async def listening(
    database_url: str,
    application_name: str,
    channel: str,
    on_notification: Callable[[], None],
    on_loss: Callable[[], None],
    *,
    timeout_s: float,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A session that LISTENs on `channel` for the length of the block; the block may use it for queries as well.

    `on_notification`: called for each notification, whatever its payload. What was committed before the block begins
    was told to nobody, so look for it first. `on_loss`: called when the connection is lost, or ended with the block.
    `timeout_s`: for PostgreSQL to answer. Raises what `open_session` raises.
    """
    connection = await open_session(database_url, application_name, timeout_s=timeout_s, command_timeout_s=timeout_s)
    try:
        connection.add_termination_listener(lambda _: on_loss())
        await connection.add_listener(channel, lambda *_: on_notification())
        yield connection
    finally:
        connection.terminate()  # nothing is in hand; a goodbye would wait for a server that hangs


def make_pool(
    database_url: str, application_name: str, size: int, timeout_s: float, settings: Mapping[str, str] | None = None
) -> Pool:
    """Make an API's pool. It connects on first use, so the process starts even while PostgreSQL is away.

    `settings`: more of them, for its sessions.
    """
    return asyncpg.create_pool(
        database_url,
        min_size=0,
        max_size=size,
        timeout=timeout_s,
        server_settings={**session_settings(application_name), **(settings or {})},
        target_session_attrs=SessionAttribute.read_write,
        init=_begin,
        reset=_leave_as_it_is,
    )


async def _begin(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    if connection.get_server_version().major >= 17:
        await connection.execute(_FROM_17_ON)


async def _leave_as_it_is(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Replaces asyncpg's RESET ALL, which would undo `_begin` and costs a round trip for each use.

    Our code changes no session settings, and asyncpg itself rolls back an open transaction.
    """


class StoreUnavailable(Exception):
    """PostgreSQL is away or too slow to answer. Nothing was changed."""


@asynccontextmanager
async def reading(pool: Pool, timeout_s: float) -> AsyncIterator[PooledConnection]:
    """`borrow`, for a block that only reads. Raises StoreUnavailable for a PASSING fault: see database.faults."""
    try:
        async with borrow(pool, timeout_s) as connection:
            yield connection
    except Exception as error:
        if fault_of(error) is not Fault.PASSING:
            raise
        raise StoreUnavailable(describe(error)) from error


@asynccontextmanager
async def borrow(pool: Pool, timeout_s: float) -> AsyncIterator[PooledConnection]:
    """A connection for the length of the block, which is cancelled after `timeout_s`, the wait for it included.

    Raises TimeoutError, at the latest after twice `timeout_s`. `pool.fetch` in an `asyncio.timeout` would not do: once
    cancelled, it waits without limit for the server to answer the cancellation. A server that hangs never does
    (measured: 20 s and more). A timeout in `acquire` also bounds the release.

    If the server says that it cannot do the work, its connection is dropped, and with it all others of the pool.
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
    """Raise ReadOnlySQLTransactionError if this server takes no writes: it became a standby since we connected.

    Also a liveness check, for the price of `SELECT 1`.
    """
    if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
        raise asyncpg.ReadOnlySQLTransactionError("transaction_read_only is on")


def count_fault(error: BaseException) -> None:
    """Count the error in the metrics if it is a PASSING fault of PostgreSQL."""
    if fault_of(error) is Fault.PASSING:
        metrics.SERVER_FAULTS.labels("postgresql", cause_of(error).name).inc()
