"""The orders of a product, newest first. The first page, which everybody reads, goes through a read-through cache."""

from dataclasses import dataclass
from functools import partial

from ingest_api.reads.stored_orders import Row, StoredOrders
from pipeline.cache.order_list_cache import Lease, OrderListCache
from pipeline.cache.single_flight import SingleFlight
from pipeline.contract.order_view import encode_list
from web.access.clients import Client
from web.requests.paging import Cursor, Page


@dataclass(frozen=True, slots=True)
class Listed:
    """One page."""

    body: bytes
    """The body that GET answers."""
    last: str
    """The cursor of its last row; "" if there is nothing behind it."""

    def pack(self) -> bytes:
        return f"{self.last}\n".encode() + self.body

    @classmethod
    def unpack(cls, packed: bytes) -> "Listed":
        last, _, body = packed.partition(b"\n")
        return cls(body, last.decode())


class OrderLists:
    """Reads pages of orders. While Redis is away, all come from PostgreSQL; concurrent reads of a first page share one
    query.
    """

    def __init__(self, cache: OrderListCache, orders: StoredOrders) -> None:
        self._cache, self._orders = cache, orders
        self._flights: SingleFlight[Listed] = SingleFlight()

    async def read(self, product_id: str, client: Client, page: Page) -> Listed:
        """A page of the orders that the client may see. Raises StoreUnavailable, Busy."""
        if not page.is_default:
            return await self._load(product_id, client, page)
        owner = _owner(client)
        cached = await self._cache.read(product_id, owner or "")
        if isinstance(cached, bytes):
            return Listed.unpack(cached)
        look_up = partial(self._look_up, product_id, client, page, cached)
        return await self._flights.run(f"{product_id} {owner or ''}", look_up)

    async def forget(self, product_id: str) -> None:
        """Bust the first page: a read after this finds what was committed before it."""
        await self._cache.bust([product_id])

    async def _look_up(
        self, product_id: str, client: Client, page: Page, lease: Lease | None, is_second: bool
    ) -> Listed:
        if is_second:  # the look-up before this one has filled the cache, unless it was busted since
            cached = await self._cache.read(product_id, _owner(client) or "")
            if isinstance(cached, bytes):
                return Listed.unpack(cached)
            lease = cached
        listed = await self._load(product_id, client, page)
        if lease is not None:
            await self._cache.fill(lease, listed.pack())
        return listed

    async def _load(self, product_id: str, client: Client, page: Page) -> Listed:
        rows = await self._orders.of_product(product_id, _owner(client), page, client.name)
        return Listed(encode_list(rows[: page.limit]), page.last(rows, _cursor))


def _owner(client: Client) -> str | None:
    """Whose orders the client may see; None: everybody's."""
    return None if client.sees_all else client.name


def _cursor(row: Row) -> Cursor:
    return Cursor(row["created_at"], row["id"])
