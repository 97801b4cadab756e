"""Writes orders by SQL as the workers do, and runs ingest_api's reads in this process, where they can be held."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from starlette.applications import Starlette
from starlette.types import ASGIApp

from database.channels import VERDICTS
from database.sessions import StoreUnavailable, make_pool
from ingest_api.documents.operations import OPERATIONS
from ingest_api.reads.lookup import OrderLookup
from ingest_api.reads.order_lists import OrderLists
from ingest_api.reads.order_walks import Stretch, Wanted
from ingest_api.reads.stored_orders import ListPage, ReadLimits, Row, StoredOrders
from ingest_api.reads.verdicts import PART, Verdicts
from pipeline.cache import redis_link
from pipeline.cache.order_list_cache import OrderListCache
from pipeline.contract.cancellations import Cancellation
from pipeline.contract.order_ids import OrderIds
from pipeline.process.health import Health
from product_consumer.cancel import cancel
from tests.support.brokers.broker import running_task
from tests.support.data.orders import T0
from tests.support.data.redis_names import NAMESPACE
from tests.support.services.ingest import Ingest, execute
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually
from web.access.clients import ANYONE, OPS, ORDERS_READ, Client, Guard
from web.problems.handlers import HANDLERS, on_store_unavailable
from web.requests.paging import Page
from web.requests.routes import make_routes

_INSERT_ORDER = """
    INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at, client)
    VALUES ($1, $2, 2, 9.90, 19.80, $3, $4)
"""
_INSERT_VERDICT = (
    "INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason) VALUES ($1, $2, 2, $3, $4)"
)
_INSERT_DEAD = "INSERT INTO dead_letters (order_id, stage, reason, detail, body) VALUES ($1, $2, $3, '', $4)"


async def store_order(
    database_url: str,
    product_id: str | None = None,
    *,
    order_id: str | None = None,
    at: datetime = T0,
    client: str | None = None,
) -> str:
    """Store an order as persist_worker does. Returns its id; unless given, it is no id that Headrace minted."""
    order_id = order_id or str(uuid.uuid4())
    await execute(database_url, _INSERT_ORDER, order_id, product_id or str(uuid.uuid4()), at, client)
    return order_id


async def decide_order(database_url: str, order_id: str, product_id: str, reason: str | None = None) -> None:
    """Write a verdict as product_consumer does, without notifying or busting."""
    outcome = "FAILED" if reason else "PROCESSED"
    await execute(database_url, _INSERT_VERDICT, order_id, product_id, outcome, reason)


async def cancel_order(database_url: str, order_id: str, client: str | None = None, reason: str | None = None) -> None:
    """Cancel an order as product_consumer does, without notifying or busting. `client`: None: an open service."""
    it = Cancellation(order_id, datetime.now(UTC), client or "", client is None, reason)
    async with connected(database_url) as connection:
        await cancel(connection, [it], [])


async def park_order(database_url: str, order_id: str, stage: str, reason: str, body: bytes = b"") -> None:
    await execute(database_url, _INSERT_DEAD, order_id, stage, reason, body)


async def notify(database_url: str) -> None:
    await execute(database_url, f"NOTIFY {VERDICTS}")


# Within a wait of 30 s, on a busy machine.
AT_ONCE_S = 3.0


class HeldOrders(StoredOrders):
    """The real tables. Counts reads, and can hold a read between its SELECT and its return."""

    selected = 0
    holding: asyncio.Event | None = None

    async def find(self, order_ids: Collection[str], asker: str) -> Mapping[str, Row]:
        holding, rows = self.holding, await super().find(order_ids, asker)
        await self._hold(holding)
        return rows

    async def page(self, wanted: Wanted, stretch: Stretch, page: Page, asker: str) -> ListPage:
        holding, found = self.holding, await super().page(wanted, stretch, page, asker)
        await self._hold(holding)
        return found

    def hold(self) -> asyncio.Event:
        """Hold reads that start from now on, until `holding` is None again. The returned event releases them."""
        self.holding = asyncio.Event()
        return self.holding

    async def _hold(self, holding: asyncio.Event | None) -> None:
        self.selected += 1
        if holding is not None:
            await holding.wait()


@dataclass(frozen=True)
class Reads:
    """ingest_api's GET endpoints, without the rest of the service."""

    app: ASGIApp
    http: httpx.AsyncClient
    orders: HeldOrders
    verdicts: Verdicts

    async def get(self, path: str, client: str = "", *, sees_all: bool = False) -> httpx.Response:
        """GET as `client`; without one, as an anonymous client of an open service."""
        headers = {"Authorization": f"{client} {OPS if sees_all else ''}"} if client else {}
        return await self.http.get(path, headers=headers)


def claimed(authorizations: Sequence[bytes], _: str) -> Client:
    """A guard that trusts the request's own words: a name, and `ops` for a client that sees all."""
    if not authorizations:
        return ANYONE
    name, *more = authorizations[0].decode().split()
    return Client(name, frozenset({ORDERS_READ, *more}))


@asynccontextmanager
async def order_reads(
    environment: Mapping[str, str], *, max_waiting: int = 100, timeout_s: float = 2.0, guard: Guard = claimed
) -> AsyncIterator[Reads]:
    health = Health("reads", PART)
    url = environment["DATABASE_URL"]
    limits = ReadLimits(order_connections=2, list_connections=2, max_orders=100, max_lists=10, timeout_s=timeout_s)
    async with redis_link.connect(environment["REDIS_URL"]) as redis, make_pool(url, "test", 4, timeout_s) as pool:
        cache, orders = OrderListCache(redis, NAMESPACE), HeldOrders(pool, pool, limits)
        verdicts = Verdicts(url, cache, health, max_waiting=max_waiting, timeout_s=timeout_s)
        lookup = OrderLookup(orders, OrderLists(cache, orders), verdicts, OrderIds(environment["ORDER_ID_KEY"]), guard)
        endpoints = {
            "listOrders": lookup.list_orders,
            "listOrdersOfProduct": lookup.of_product,
            "getOrder": lookup.get,
        }
        operations = [operation for operation in OPERATIONS if operation.id in endpoints]
        routes = make_routes(operations, endpoints, guard)
        handlers = {**HANDLERS, StoreUnavailable: on_store_unavailable}
        app = Starlette(routes=routes, exception_handlers=handlers)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reads")
        async with running_task(verdicts.run()), http:
            await eventually(lambda: health.is_up(PART))
            yield Reads(app, http, orders, verdicts)


# ── waiting


async def are_waiting(ingest: Ingest, count: int = 1) -> None:
    """Wait until `count` requests wait for a verdict."""

    async def are() -> bool:
        return await ingest.metric("headrace_verdict_waiters") == count

    await eventually(are)


async def took(response: "asyncio.Future[httpx.Response] | asyncio.Task[httpx.Response]") -> tuple[str, float]:
    """The response's status, and how long it took from now."""
    began = time.monotonic()
    answer = await response
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["status"], time.monotonic() - began
