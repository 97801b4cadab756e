"""Many clients that order at the same time, and their answers."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from proof.load import drive
from proof.load_result import LoadResult, Request, is_accepted
from tests.support.services.ingest import ORDERS
from tests.support.time.conditions import eventually


class Load:
    """Sends orders of one unit for each product in turn, until `end` is called."""

    def __init__(self, url: str, product_ids: Sequence[str], clients: int, orders: int | None) -> None:
        self.answered = 0
        """Finished requests, answered or not; up to a tenth of a second late."""
        self._ended = False
        bodies = [msgspec.json.encode({"productId": product_id, "quantity": 1}) for product_id in product_ids]
        requests = itertools.cycle([Request.post(url + ORDERS, body, None) for body in bodies])
        self._requests = itertools.islice(requests, orders)
        self._driving = asyncio.create_task(drive(url, self._until_ended(), clients, self._on_progress))

    async def end(self) -> LoadResult[None]:
        """Stop sending, and wait for the remaining answers."""
        self._ended = True
        return await self._driving

    async def all(self) -> LoadResult[None]:
        """Wait until all orders of a limited load are sent and answered."""
        return await self._driving

    async def more(self, count: int, timeout_s: float = 30) -> None:
        """Wait until `count` more requests are finished."""
        before = self.answered
        await eventually(lambda: self.answered >= before + count, timeout_s)

    def _until_ended(self) -> Iterator[Request[None]]:
        return itertools.takewhile(lambda _: not self._ended, self._requests)

    def _on_progress(self, answered: int) -> None:
        self.answered = answered


@asynccontextmanager
async def loading(
    url: str, product_ids: Sequence[str], *, clients: int = 32, orders: int | None = None
) -> AsyncIterator[Load]:
    """Put load on the ingest_api at `url`: `orders` orders, or until the block ends."""
    load = Load(url, product_ids, clients, orders)
    try:
        yield load
    finally:
        await load.end()


def accepted_ids(result: LoadResult[None]) -> set[str]:
    """The ids of all orders answered 202. Asserts that they are unique."""
    ids = Counter(id_.decode() for id_, status in zip(result.kept, result.statuses, strict=True) if is_accepted(status))
    assert all(count == 1 for count in ids.values())
    return set(ids)
