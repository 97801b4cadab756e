"""Clients that cancel a share of their orders at once after the 202, and again until they are answered 2xx."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

import httpx

from database.connection import Connection
from tests.chaos.scene.attempts import Attempt, Verdict
from tests.support.services.deployment import Deployment
from tests.support.services.ingest import ORDERS
from tests.support.time.conditions import eventually

_LOOK_EVERY_S = 0.02
_AGAIN_S = 0.2
_STATUS = """
    SELECT l.order_id::text, l.outcome, c.outcome FROM stock_ledger l
    LEFT JOIN cancellations c ON c.order_id = l.order_id AND c.outcome IN ('before_verdict', 'returned')
"""
_WAITING = "SELECT count(*) FROM cancellations WHERE outcome IS NULL"


class Cancels:
    """Cancels a share of the orders in `attempts` as soon as they are accepted."""

    def __init__(self, deployment: Deployment, attempts: Sequence[Attempt], share: float, rng: random.Random) -> None:
        self._deployment, self._attempts, self._share, self._rng = deployment, attempts, share, rng
        self._next = 0
        self._open: list[Attempt] = []
        self._sending: set[asyncio.Task[None]] = set()
        self.accepted: set[str] = set()
        """Ids of the orders whose cancellation was answered 2xx."""
        self.asked: set[str] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Cancel orders for the block, and then wait until each cancellation is answered."""
        async with self._deployment.client("ingest_api") as client:
            watching = asyncio.create_task(self._watch(client))
            yield
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await eventually(lambda: self.asked == self.accepted, 30)
            await asyncio.gather(*self._sending)

    async def wrong(self, connection: Connection) -> list[str]:
        """The orders that are not as their clients were told. Call it when all is settled."""
        found = {row[0]: (row[1], row[2]) for row in await connection.fetch(_STATUS)}
        lost = [f"{it} was cancelled and is {found.get(it)}" for it in self.accepted if not _is_over(found.get(it))]
        extra = [f"{it} was not cancelled and is" for it, (_, by) in found.items() if by and it not in self.asked]
        waiting = await connection.fetchval(_WAITING)
        return [*lost, *extra, *([f"{waiting} cancellations wait"] if waiting else [])]

    async def _watch(self, client: httpx.AsyncClient) -> None:
        while True:
            self._open += self._attempts[self._next :]
            self._next = len(self._attempts)
            for attempt in [it for it in self._open if it.ended_s is not None]:
                self._open.remove(attempt)
                if attempt.verdict is Verdict.OK and self._rng.random() < self._share:
                    self.asked.add(attempt.told)
                    self._sending.add(asyncio.create_task(self._send(client, attempt.told)))
            await asyncio.sleep(_LOOK_EVERY_S)  # a pace; no test waits for this

    async def _send(self, client: httpx.AsyncClient, order_id: str) -> None:
        while order_id not in self.accepted:
            with contextlib.suppress(httpx.TransportError):
                if (await client.post(f"{ORDERS}/{order_id}/cancel")).is_success:
                    self.accepted.add(order_id)
                    return
            await asyncio.sleep(_AGAIN_S)  # a client's pace


def _is_over(found: tuple[str, str | None] | None) -> bool:
    """Whether the order is CANCELLED, or FAILED."""
    return found is not None and (found[0] == "FAILED" or found[1] is not None)
