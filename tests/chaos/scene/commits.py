"""Looks, on a connection of its own, whether the cause of an event is committed in the moment in which the event comes.

An event that came before its commit would tell of something that may never happen.
"""

import asyncio
from collections.abc import Sequence

import asyncpg

from database.connection import Connection
from proof.events import Event

# PostgreSQL may be what is away. A reader waits no longer than that.
_PATIENCE_S = 1.0
_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
_UNCOMMITTED = """
    SELECT e.id FROM unnest($1::text[], $2::uuid[], $3::boolean[]) AS e (id, order_id, is_final)
    WHERE NOT CASE WHEN is_final THEN EXISTS (SELECT FROM stock_ledger l WHERE l.order_id = e.order_id)
        ELSE EXISTS (SELECT FROM dead_letters d WHERE d.order_id = e.order_id) END
"""


class Commits:
    """Shared by all readers of a scenario."""

    def __init__(self, database_url: str) -> None:
        """`database_url`: of PostgreSQL itself."""
        self._url = database_url
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def uncommitted(self, events: Sequence[Event]) -> list[str] | None:
        """The ids of events whose verdict or dead letter is not visible now. None: PostgreSQL did not say."""
        columns = [it.id for it in events], [it.order.id for it in events], [it.order.final for it in events]
        try:
            async with asyncio.timeout(_PATIENCE_S), self._turn:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(self._url)
                return [row[0] for row in await self._connection.fetch(_UNCOMMITTED, *columns)]
        except _AWAY:
            self.close()
            return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
