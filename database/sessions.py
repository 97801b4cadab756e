"""How a connection to PostgreSQL is set up, whoever makes it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from database.faults import Fault, describe, fault_of

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

_SETTINGS = {
    # A batch is acknowledged and an answer given after the commit: it has to be on disk by then (P1), also on a server,
    # in a database or by a URL that has this off.
    "synchronous_commit": "on",
    # asyncpg prepares every statement, and after five runs PostgreSQL keeps one plan for it. A plan made while the
    # tables were empty is a sequential scan, and it stays until an autoanalyze: product_consumer, asking for the
    # verdicts of a batch, went from 86 ms to 1.5 s (p50) within 90,000 orders. Planning each time costs 0.1 to 0.2 ms.
    "plan_cache_mode": "force_custom_plan",
    # A client that is frozen in the middle of a transaction keeps its locks, and answers keepalives: its kernel does. A
    # batch takes a second at the most, and what is rolled back comes again.
    "idle_in_transaction_session_timeout": "30s",
    # Lets the server notice within 5 + 3 × 5 s that a client is gone without a word, and free its locks.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def session_settings(application_name: str) -> dict[str, str]:
    """`server_settings` for asyncpg. `application_name`: what pg_stat_activity shows."""
    return _SETTINGS | {"application_name": application_name}


def make_pool(database_url: str, application_name: str, size: int, timeout_s: float) -> Pool:
    """A pool for an API. Connects when first needed, so that the process starts while PostgreSQL is away."""
    return asyncpg.create_pool(
        database_url,
        min_size=0,
        max_size=size,
        timeout=timeout_s,
        server_settings=session_settings(application_name),
    )


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
    """
    async with asyncio.timeout(timeout_s), pool.acquire(timeout=timeout_s) as connection:
        yield connection
