"""Lists of orders, newest first. The first page of a product's orders, which everybody reads, goes through a
read-through cache.
"""

from dataclasses import dataclass
from functools import partial

from ingest_api.reads.order_walks import Stretch, Wanted
from ingest_api.reads.stored_orders import StoredOrders
from pipeline.cache.order_list_cache import Lease, OrderListCache
from pipeline.cache.single_flight import SingleFlight
from pipeline.contract.order_view import encode_list
from web.access.clients import Client
from web.requests.paging import Page


@dataclass(frozen=True, slots=True)
class Listed:
    """One page."""

    body: bytes
    """The body that GET answers."""
    last: str
    """The cursor of the next page; "" if there is none."""

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

    async def of_product(self, product_id: str, client: Client, page: Page) -> Listed:
        """A page of the product's orders that the client may see. Raises StoreUnavailable, Busy."""
        wanted = Wanted(owner_of(client), product_id)
        if not page.is_default:
            return await self.page(wanted, Stretch.of(page), page, client)
        owner = wanted.owner or ""
        cached = await self._cache.read(product_id, owner)
        if isinstance(cached, bytes):
            return Listed.unpack(cached)
        look_up = partial(self._look_up, product_id, wanted, client, page, cached)
        return await self._flights.run(f"{product_id} {owner}", look_up)

    async def page(self, wanted: Wanted, stretch: Stretch, page: Page, client: Client) -> Listed:
        """A page from PostgreSQL. `wanted`: with an owner, if the client may see its own alone. Raises
        StoreUnavailable, Busy.
        """
        found = await self._orders.page(wanted, stretch, page, client.name)
        return Listed(encode_list(found.rows), found.next.encode() if found.next else "")

    async def forget(self, product_ids: set[str]) -> None:
        """Bust the first pages: a read after this finds what was committed before it."""
        await self._cache.bust(product_ids)

    async def _look_up(
        self, product_id: str, wanted: Wanted, client: Client, page: Page, lease: Lease | None, is_second: bool
    ) -> Listed:
        if is_second:  # the look-up before this one has filled the cache, unless it was busted since
            cached = await self._cache.read(product_id, wanted.owner or "")
            if isinstance(cached, bytes):
                return Listed.unpack(cached)
            lease = cached
        listed = await self.page(wanted, Stretch.of(page), page, client)
        if lease is not None:
            await self._cache.fill(lease, listed.pack())
        return listed


def owner_of(client: Client) -> str | None:
    """Whose orders the client may see; None: everybody's."""
    return None if client.sees_all else client.name
