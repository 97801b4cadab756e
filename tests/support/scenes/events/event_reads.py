"""Writes events by SQL as the workers do, and runs ingest_api's reads of events in this process."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.applications import Starlette

from database.channels import VERDICTS
from database.log_follower import LogFollower
from database.sessions import StoreUnavailable, make_pool
from ingest_api.documents.event_operations import EVENTS, LIST_EVENTS
from ingest_api.events.endpoint import ListEvents
from ingest_api.events.reader import EventReader
from pipeline.process.health import Health
from pipeline.process.shares import Shares
from pipeline.process.turns import Turns
from tests.support.brokers.broker import running_task
from tests.support.scenes.order_reads import claimed
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually
from web.access.clients import OPS, Guard
from web.problems.handlers import HANDLERS, on_store_unavailable
from web.requests.routes import make_routes

_ORDERS = """
    INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at, client)
    SELECT unnest($1::uuid[]), $2, 2, 9.90, 19.80, now(), $3
"""
_VERDICTS = """
    INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason)
    SELECT unnest($1::uuid[]), $2, 2, $3, $4
"""


async def log_events(
    database_url: str,
    count: int = 1,
    *,
    product_id: str | None = None,
    client: str | None = None,
    reason: str | None = None,
    notifies: bool = True,
) -> list[str]:
    """Store and decide `count` orders in one batch. Returns their ids, in the order of their events."""
    ids, product_id = [str(uuid.uuid4()) for _ in range(count)], product_id or str(uuid.uuid4())
    async with connected(database_url) as connection:
        async with connection.transaction():
            await connection.execute(_ORDERS, ids, product_id, client)
            outcome = "FAILED" if reason else "PROCESSED"
            await connection.execute(_VERDICTS, ids, product_id, outcome, reason)
        if notifies:
            await connection.execute(f"NOTIFY {VERDICTS}")
    return ids


def order_ids(events: Sequence[Mapping[str, Any]]) -> list[str]:
    return [it["order"]["id"] for it in events]


def next_of(response: httpx.Response) -> str:
    """The path of the next page."""
    link = response.links["next"]
    assert link["rel"] == "next"
    return link["url"]


@dataclass(frozen=True)
class EventReads:
    """GET of events, without the rest of the service."""

    http: httpx.AsyncClient
    log: LogFollower
    turns: Turns
    stop: asyncio.Event

    async def get(self, query: str = "", client: str = "", *, sees_all: bool = False) -> httpx.Response:
        """GET as `client`; without one, as an anonymous client of an open service."""
        headers = {"Authorization": f"{client} {OPS if sees_all else ''}"} if client else {}
        return await self.http.get(f"{EVENTS}{query}", headers=headers)

    async def ends_at(self, offset: int) -> None:
        await eventually(lambda: self.log.last_offset == offset)


@asynccontextmanager
async def event_reads(
    environment: Mapping[str, str],
    *,
    max_reads: int = 100,
    max_waiting: int = 100,
    max_streams: int = 10,
    timeout_s: float = 2.0,
    guard: Guard = claimed,
) -> AsyncIterator[EventReads]:
    health, url, stop = Health("reads", "event log"), environment["DATABASE_URL"], asyncio.Event()
    async with make_pool(url, "test", 2, timeout_s) as pool:
        log = LogFollower(url, health, "event log", pool=pool, timeout_s=timeout_s, min_interval_s=0.01)
        turns = Turns(Shares("pages of old events", max_reads), 2, timeout_s)
        events = ListEvents(
            EventReader(log, turns), guard, max_waiting=max_waiting, max_streams=max_streams, stopped=stop
        )
        routes = make_routes([LIST_EVENTS], {LIST_EVENTS.id: events.get}, guard)
        app = Starlette(routes=routes, exception_handlers={**HANDLERS, StoreUnavailable: on_store_unavailable})
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reads", timeout=40)
        async with running_task(log.run()), http:
            await eventually(lambda: health.is_up("event log"))
            yield EventReads(http, log, turns, stop)
