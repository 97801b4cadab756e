"""Clients that take some of their orders back at once after the 202, and ask again until they are answered 2xx."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx

from tests.chaos.scene.attempts import Attempt, Verdict
from tests.support.services.deployment import Deployment
from tests.support.services.ingest import ORDERS
from tests.support.time.conditions import eventually

_AGAIN_S = 0.2
# As from clients that know nothing of each other. Idle connections would count as files that a service has left open.
_ALONE = {"Connection": "close"}
_ANSWERED_WITHIN_S = 30


class Cancels:
    """Cancels the orders whose clients want it (WantedOrder.is_cancelled)."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._client: httpx.AsyncClient | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self.asked: set[str] = set()
        """Ids of the orders whose cancellation was sent at least once."""
        self.accepted: set[str] = set()
        """Those whose cancellation was answered 2xx."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Cancel what is accepted in the block, and then wait until each cancellation is answered."""
        async with self._deployment.client("ingest_api") as self._client:
            try:
                yield
                await self.answered()
            finally:
                self._client = None
                for task in self._sending:
                    task.cancel()

    async def answered(self) -> None:
        await eventually(lambda: self.asked == self.accepted, _ANSWERED_WITHIN_S)

    def consider(self, attempt: Attempt) -> None:
        """Called with each attempt as soon as it has ended."""
        is_wanted = attempt.verdict is Verdict.OK and attempt.wanted.is_cancelled
        if self._client is None or not is_wanted or attempt.told in self.asked:
            return
        self.asked.add(attempt.told)
        task = asyncio.create_task(self._send(self._client, attempt.told))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, client: httpx.AsyncClient, order_id: str) -> None:
        while order_id not in self.accepted:
            with contextlib.suppress(httpx.TransportError):
                if (await client.post(f"{ORDERS}/{order_id}/cancel", headers=_ALONE)).is_success:
                    self.accepted.add(order_id)
                    return
            await asyncio.sleep(_AGAIN_S)  # a client's pace; no test waits for this
