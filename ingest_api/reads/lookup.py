"""GET an order, and the orders of a product. stored_orders knows the state of an order; this decides who may see it.

a row                   the order, to its own client; 404 to others. Of an order that could not be stored, the dead
                        letter says whose it is; to others it is PENDING, like any id minted here
a minted id, no row     PENDING: it is on its way (P6). Also while PostgreSQL is away: `Order-Status-Source: id` says
                        then that PostgreSQL was not asked
anything else           404; 503 while PostgreSQL is away

More reads than may wait are 503. Nothing is known of the order then, so the answer does not say PENDING.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from database.sessions import StoreUnavailable
from ingest_api.reads.order_lists import OrderLists
from ingest_api.reads.order_view import OrderView, encode, view
from ingest_api.reads.stored_orders import PENDING, Row, StoredOrders
from ingest_api.reads.verdicts import Expected, Verdicts
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import client_in
from web.access.clients import Client
from web.problems import problems
from web.requests.head import head_of
from web.requests.ids import id_in_path
from web.requests.paging import Page

MAX_WAIT_S = 30

# A number, as any client's language writes it: 1e-05 is one. float() itself accepts more.
_SECONDS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MAX_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Found:
    order: OrderView
    source: str
    """`store`, or `id` if the id alone says that there is such an order."""

    @property
    def is_pending(self) -> bool:
        return self.order.status == PENDING


def parse_wait(text: str | None) -> float:
    """How many seconds to wait for the verdict. Raises Problem (422)."""
    if text is None:
        return 0.0
    is_number = len(text) <= _MAX_CHARACTERS and _SECONDS.fullmatch(text)
    if not is_number or not 0 <= float(text) <= MAX_WAIT_S:
        raise problems.invalid_parameter("wait", f"wait must be a number of seconds from 0 to {MAX_WAIT_S}.")
    return float(text)


# ── I/O below


class OrderLookup:
    """The two GET endpoints."""

    def __init__(self, orders: StoredOrders, lists: OrderLists, verdicts: Verdicts, ids: OrderIds) -> None:
        self._orders, self._lists, self._verdicts, self._ids = orders, lists, verdicts, ids

    async def get(self, request: Request) -> Response:
        order_id, wait_s = id_in_path(request, "order"), parse_wait(request.query_params.get("wait"))
        client = head_of(request).client
        if wait_s:
            found = await self._find_decided(order_id, client, wait_s, request.receive)
        else:
            found = await self._find(order_id, client)
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
    return client.sees_all or (row["parked"] is not None and client_in(row["parked"]) == client.name)


async def _wait(expected: Expected, until: float, receive: Receive) -> None:
    """Wait for the verdict, but not past `until` on the loop's clock. Raises ClientDisconnect."""
    leaving = asyncio.create_task(_left(receive))
    either: set[asyncio.Future[Any]] = {expected, leaving}
    try:
        rest_s = max(0.0, until - asyncio.get_running_loop().time())
        await asyncio.wait(either, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            raise ClientDisconnect
    finally:
        leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # a body: GET has no use for one


def _json(body: bytes, headers: Mapping[str, str]) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store", **headers})
