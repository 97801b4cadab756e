"""GET an order, several orders, and lists. stored_orders knows the state of an order; this decides who may see it.

a row                   the order, to its own client; to others there is none. Of an order that could not be stored, the
                        dead letter says whose it is; to others it is PENDING, like any id minted here
a minted id, no row     PENDING: it is on its way (P6). Also while PostgreSQL is away: `Order-Status-Source: id` says
                        then that PostgreSQL was not asked
anything else           there is none; 503 while PostgreSQL is away

Where there is no order, a request for it is 404, and an answer with several leaves it out.

More reads than may wait are 503. Nothing is known of the orders then, so the answer does not say PENDING.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from database.sessions import StoreUnavailable
from ingest_api.reads.order_lists import OrderLists, owner_of
from ingest_api.reads.order_query import ById, Listing, parse_order_query
from ingest_api.reads.stored_orders import PENDING, Row, StoredOrders
from ingest_api.reads.verdicts import Expected, Verdicts
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.order_view import OrderView, encode, encode_all, view
from pipeline.contract.orders import client_in
from web.access.clients import Client, Guard
from web.problems import problems
from web.requests.head import client_now, head_of
from web.requests.ids import id_in_path
from web.requests.paging import Page
from web.requests.waits import has_left, parse_wait


@dataclass(frozen=True, slots=True)
class Found:
    """What a client may see of the orders that it asked for."""

    orders: Mapping[str, OrderView]
    """By id. One that the client may not know of is missing."""
    source: str = "store"
    """`store`, or `id` if the ids alone say that there are such orders."""

    @property
    def pending(self) -> list[str]:
        return [order_id for order_id, order in self.orders.items() if order.status == PENDING]

    def after(self, order_ids: Collection[str], again: "Found") -> "Found":
        """With these orders as they were found again."""
        others = {order_id: order for order_id, order in self.orders.items() if order_id not in order_ids}
        return Found({**others, **again.orders}, again.source if order_ids else self.source)

    def order(self, order_id: str) -> OrderView:
        """Raises Problem (404) if there is none that the client may know of."""
        if order_id not in self.orders:
            raise problems.not_found(f"order {order_id}")
        return self.orders[order_id]


# ── I/O below


class OrderLookup:
    """The three GET endpoints."""

    def __init__(
        self, orders: StoredOrders, lists: OrderLists, verdicts: Verdicts, ids: OrderIds, guard: Guard
    ) -> None:
        """`guard`: checks that a client that has waited may still read the orders."""
        self._orders, self._lists, self._verdicts, self._ids, self._guard = orders, lists, verdicts, ids, guard

    async def get(self, request: Request) -> Response:
        order_id, wait_s = id_in_path(request, "order"), parse_wait(request.query_params.get("wait"))
        found = await self._read([order_id], wait_s, request)
        return answer(found.order(order_id), found.source)

    async def list_orders(self, request: Request) -> Response:
        asked = parse_order_query(request.query_params)
        return await (self._several(request, asked) if isinstance(asked, ById) else self._page(request, asked))

    async def of_product(self, request: Request) -> Response:
        product_id, page, client = id_in_path(request, "product"), Page.of(request), head_of(request).client
        listed = await self._lists.of_product(product_id, client, page)
        return _json(listed.body, page.links(request.url, listed.last))

    async def _several(self, request: Request, asked: ById) -> Response:
        found = await self._read(dict.fromkeys(asked.order_ids), asked.wait_s, request)
        orders = [found.orders[it] for it in asked.order_ids if it in found.orders]
        return _json(encode_all(orders), {"Order-Status-Source": found.source})

    async def _page(self, request: Request, asked: Listing) -> Response:
        client = head_of(request).client
        wanted = replace(asked.wanted, owner=owner_of(client))
        listed = await self._lists.page(wanted, asked.stretch, asked.page, client)
        return _json(listed.body, asked.page.links(request.url, listed.last, request.query_params))

    async def _read(self, order_ids: Collection[str], wait_s: float, request: Request) -> Found:
        """The orders as the client of the request may see them; with `wait_s`, once all are decided."""
        head = head_of(request)
        if not wait_s:
            return await self.find(order_ids, head.client)
        found = await self._find_decided(order_ids, head.client, wait_s, request.receive)
        client = client_now(head, self._guard)
        return found if client.sees_as(head.client) else await self.find(order_ids, client)

    async def find(self, order_ids: Collection[str], client: Client) -> Found:
        """Raises StoreUnavailable, Busy."""
        try:
            rows = await self._orders.find(order_ids, client.name)
        except StoreUnavailable:
            if not all(map(self._ids.is_ours, order_ids)):
                raise
            return Found({it: OrderView(it, PENDING, final=False) for it in order_ids}, "id")
        return self.seen([rows[it] for it in order_ids], client)

    async def _find_decided(self, order_ids: Collection[str], client: Client, wait_s: float, receive: Receive) -> Found:
        """The orders as soon as all are decided; after `wait_s`, or if waiting is no use, as they are. Raises what
        `find` raises, and ClientDisconnect.
        """
        until = asyncio.get_running_loop().time() + wait_s
        with self._verdicts.expect(order_ids, client.name) as expected:
            found = await self._look(order_ids, client)
            waiting = {order_id: expected[order_id] for order_id in found.pending}
            if waiting:
                await wait_for(waiting.values(), until, receive)
                found = found.after(*self._told(waiting, client))
                if found.pending and all(it.done() and it.result() for it in waiting.values()):
                    # Of an order that the client may not know of. An early answer would show that something is known.
                    await wait_for([asyncio.get_running_loop().create_future()], until, receive)
                if late := [order_id for order_id, it in waiting.items() if not it.done()]:
                    found = found.after(late, await self._look(late, client))
        return found

    async def _look(self, order_ids: Collection[str], client: Client) -> Found:
        """As `find`, for a client that waits: it finds each verdict in the lists too, as Verdicts makes sure."""
        found = await self.find(order_ids, client)
        decided = {product for it in found.orders.values() if it.status != PENDING for product in it.products}
        await self._lists.forget(decided)
        return found

    def _told(self, waiting: Mapping[str, Expected], client: Client) -> tuple[Collection[str], Found]:
        """The ids of the orders that are decided now, and those that the client may see of them."""
        rows = [row for it in waiting.values() if it.done() and (row := it.result()) is not None]
        return [row["id"] for row in rows], self.seen(rows, client)

    def seen(self, rows: Iterable[Row], client: Client) -> Found:
        """What the client may see of these orders."""
        return Found({row["id"]: order for row in rows if (order := self._shown(row, client)) is not None})

    def _shown(self, row: Row, client: Client) -> OrderView | None:
        """The order as this client may see it; None if there is none that it may know of."""
        if row["is_stored"]:
            return view(row) if client.sees_all or row["client"] == client.name else None
        # Only its own client may know why it could not be stored. To others nothing is known of it.
        order = view(row) if _may_know(row, client) else OrderView(row["id"], PENDING, final=False)
        return order if order.status != PENDING or self._ids.is_ours(row["id"]) else None


def _may_know(row: Row, client: Client) -> bool:
    """Whether the client may know the state of an order that is not stored."""
    return client.sees_all or (row["parked"] is not None and client_in(row["parked"], row["id"]) == client.name)


async def wait_for(expected: Iterable[Expected], until: float, receive: Receive) -> None:
    """Wait for all of the news, but not past `until` on the loop's clock. Raises ClientDisconnect."""
    leaving = asyncio.create_task(has_left(receive))
    told = asyncio.create_task(asyncio.wait(list(expected)))
    either: set[asyncio.Future[Any]] = {told, leaving}
    try:
        rest_s = max(0.0, until - asyncio.get_running_loop().time())
        await asyncio.wait(either, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            raise ClientDisconnect
    finally:
        leaving.cancel()
        told.cancel()


def answer(
    order: OrderView, source: str, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    """The order, with the headers of every answer that has one."""
    return _json(encode(order), {"Order-Status-Source": source, **headers}, status)


def _json(body: bytes, headers: Mapping[str, str], status: int = 200) -> Response:
    return Response(body, status, media_type="application/json", headers={"Cache-Control": "no-store", **headers})
