"""GET an order, and the orders of a product. stored_orders knows the state of an order; this decides who may see it.

a row                   the order, to its own client; 404 to others. Of an order that could not be stored, the dead
                        letter says whose it is; to others it is PENDING, like any id minted here
a minted id, no row     PENDING: it is on its way (P6). Also while PostgreSQL is away: `Order-Status-Source: id` says
                        then that PostgreSQL was not asked
anything else           404; 503 while PostgreSQL is away

More reads than may wait are 503. Nothing is known of the order then, so the answer does not say PENDING.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from database.sessions import StoreUnavailable
from ingest_api.reads.order_lists import OrderLists
from ingest_api.reads.stored_orders import PENDING, Row, StoredOrders
from ingest_api.reads.verdicts import Expected, Verdicts
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.order_view import OrderView, encode, view
from pipeline.contract.orders import client_in
from web.access.clients import Client, Guard
from web.problems import problems
from web.requests.head import client_now, head_of
from web.requests.ids import id_in_path
from web.requests.paging import Page
from web.requests.waits import has_left, parse_wait


@dataclass(frozen=True, slots=True)
class Found:
    order: OrderView
    source: str
    """`store`, or `id` if the id alone says that there is such an order."""

    @property
    def is_pending(self) -> bool:
        return self.order.status == PENDING


# ── I/O below


class OrderLookup:
    """The two GET endpoints."""

    def __init__(
        self, orders: StoredOrders, lists: OrderLists, verdicts: Verdicts, ids: OrderIds, guard: Guard
    ) -> None:
        """`guard`: checks that a client that has waited may still read the order."""
        self._orders, self._lists, self._verdicts, self._ids, self._guard = orders, lists, verdicts, ids, guard

    async def get(self, request: Request) -> Response:
        order_id, wait_s = id_in_path(request, "order"), parse_wait(request.query_params.get("wait"))
        head = head_of(request)
        if wait_s:
            found = await self._find_decided(order_id, head.client, wait_s, request.receive)
            if not (client := client_now(head, self._guard)).sees_as(head.client):
                found = await self._find(order_id, client)
        else:
            found = await self._find(order_id, head.client)
        return _json(encode(found.order), {"Order-Status-Source": found.source})

    async def of_product(self, request: Request) -> Response:
        product_id, page, client = id_in_path(request, "product"), Page.of(request), head_of(request).client
        listed = await self._lists.read(product_id, client, page)
        return _json(listed.body, page.links(request.url, listed.last))

    async def _find(self, order_id: str, client: Client) -> Found:
        """Raises Problem (404), StoreUnavailable, Busy."""
        try:
            row = await self._orders.get(order_id, client.name)
        except StoreUnavailable:
            if not self._ids.is_ours(order_id):
                raise
            return Found(OrderView(order_id, PENDING, final=False), "id")
        return self._shown(row, client)

    async def _find_decided(self, order_id: str, client: Client, wait_s: float, receive: Receive) -> Found:
        """The order as soon as it is decided; after `wait_s`, or if waiting is no use, as it is. Raises what `_find`
        raises, and ClientDisconnect.
        """
        until = asyncio.get_running_loop().time() + wait_s
        with self._verdicts.expect(order_id, client.name) as expected:
            found = await self._find(order_id, client)
            if found.is_pending:
                await _wait(expected, until, receive)
                if not expected.done():
                    found = await self._find(order_id, client)
                elif (row := expected.result()) is not None:
                    shown = self._shown(row, client)
                    if shown.is_pending:  # an early answer would show that something is known
                        await _wait(asyncio.get_running_loop().create_future(), until, receive)
                    return shown
        if not found.is_pending and found.order.product_id:
            await self._lists.forget(found.order.product_id)  # as Verdicts does, for the same reason
        return found

    def _shown(self, row: Row, client: Client) -> Found:
        """The order as this client may see it. Raises Problem (404) if there is none that it may know of."""
        if row["is_stored"]:
            is_there = client.sees_all or row["client"] == client.name
            order = view(row)
        else:
            # Only its own client may know why it could not be stored. To others nothing is known of it.
            order = view(row) if _may_know(row, client) else OrderView(row["id"], PENDING, final=False)
            is_there = order.status != PENDING or self._ids.is_ours(row["id"])
        if not is_there:
            raise problems.not_found(f"order {row['id']}")
        return Found(order, "store")


def _may_know(row: Row, client: Client) -> bool:
    """Whether the client may know the state of an order that is not stored."""
    return client.sees_all or (row["parked"] is not None and client_in(row["parked"], row["id"]) == client.name)


async def _wait(expected: Expected, until: float, receive: Receive) -> None:
    """Wait for the verdict, but not past `until` on the loop's clock. Raises ClientDisconnect."""
    leaving = asyncio.create_task(has_left(receive))
    either: set[asyncio.Future[Any]] = {expected, leaving}
    try:
        rest_s = max(0.0, until - asyncio.get_running_loop().time())
        await asyncio.wait(either, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            raise ClientDisconnect
    finally:
        leaving.cancel()


def _json(body: bytes, headers: Mapping[str, str]) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store", **headers})
