"""The four services of an order's path as processes, each on its own port, so that one can be replaced under load.

A test may start event_relay as well, by its name.
"""

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from database.connection import Connection
from proof.accounting_sql import drain
from proof.load_result import LoadResult, is_refused
from tests.support.clients.load import accepted_ids
from tests.support.data.products import Audit
from tests.support.services.ingest import ORDERS
from tests.support.services.processes import ROOT, Service, free_port, service_process
from tests.support.services.workers import connected

SERVICES = ("ingest_api", "persist_worker", "product_consumer", "product_api")

_OUTCOMES = """
    SELECT id::text, coalesce(reason, outcome) AS outcome FROM orders LEFT JOIN stock_ledger ON order_id = id
    WHERE orders.product_id = ANY($1::uuid[])
"""
_DECIDED = "SELECT order_id::text FROM stock_ledger WHERE product_id = ANY($1::uuid[])"
_PARKED = "SELECT order_id::text FROM dead_letters"


@dataclass
class Deployment:
    """Running services, clients for them, and direct reads of the database."""

    environment: Mapping[str, str]
    connection: Connection
    _stack: AsyncExitStack
    _ports: defaultdict[str, int] = field(default_factory=lambda: defaultdict(free_port))
    services: dict[str, Service] = field(default_factory=dict)
    former: list[Service] = field(default_factory=list)
    """Services that were replaced."""
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Service → variables that only it gets."""
    trees: dict[str, Path] = field(default_factory=dict)
    """Service → the checkout that it is started from next, if it is not this one: that of another release."""

    async def start_missing(self) -> None:
        """Start each service that does not run."""
        async with asyncio.TaskGroup() as group:
            for name in SERVICES:
                if name not in self.services or self.services[name].process.returncode is not None:
                    group.create_task(self.start(name))

    async def start(
        self, name: str, *, program: str | None = None, ready: str | None = "/readyz", **variables: str
    ) -> None:
        """Start a service on its own port, and wait until it is ready. `program`, `ready`: see service_process."""
        environment = {**self.environment, **self.own.get(name, {}), **variables}
        tree = self.trees.get(name, ROOT)
        port = self._ports[name]
        process = service_process(name, environment, port=port, ready=ready, program=program, tree=tree)
        started = await self._stack.enter_async_context(process)
        if name in self.services:
            self.former.append(self.services[name])
        self.services[name] = started

    async def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop a service. Returns its exit code."""
        return await self.services[name].stop(number)

    async def is_ready(self, name: str) -> bool:
        async with self.client(name) as client:
            return (await client.get("/readyz")).status_code == 200

    def client(self, name: str) -> httpx.AsyncClient:
        """A new HTTP client, with its own connections."""
        # No TLS here, and loading certificates for each client would cost more than all its requests.
        return httpx.AsyncClient(base_url=self.url(name), timeout=15, verify=False)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    async def create_product(self, qty: int, price: str = "12.50") -> str:
        """Create a product through product_api. Returns its id."""
        async with self.client("product_api") as client:
            response = await client.post("/products", json={"name": "x", "price": price, "qty": qty})
        assert response.status_code == 201, response.text
        product_id: str = response.json()["id"]
        return product_id

    async def product(self, product_id: str) -> dict[str, Any]:
        """The product as product_api answers, through the cache."""
        return await self._get("product_api", f"/products/{product_id}")

    async def order(self, product_id: str, quantity: int = 1, **headers: str) -> httpx.Response:
        async with self.client("ingest_api") as client:
            return await client.post(ORDERS, json={"productId": product_id, "quantity": quantity}, headers=headers)

    async def get_order(self, order_id: str) -> dict[str, Any]:
        return await self._get("ingest_api", f"{ORDERS}/{order_id}")

    async def verdict(self, order_id: str) -> dict[str, Any] | None:
        """The order if it is decided, else None."""
        order = await self.get_order(order_id)
        return None if order["status"] == "PENDING" else order

    async def outcomes(self, *product_ids: str) -> dict[str, str | None]:
        """Order id → PROCESSED, or its reason; None: undecided. For all stored orders of the products."""
        rows = await self.connection.fetch(_OUTCOMES, product_ids)
        return {row["id"]: row["outcome"] for row in rows}

    async def check_books(self, result: LoadResult[None], *product_ids: str) -> int:
        """Assert that each order answered 202 is stored and decided once, and nothing else is.

        Waits for the drain. A request without an answer may have left an order; returns how many did.
        """
        accepted = accepted_ids(result)
        assert await drain(self.connection, list(accepted), lambda _: None) == [], "undecided"
        outcomes = await self.outcomes(*product_ids)
        decided = {row[0] for row in await self.connection.fetch(_DECIDED, product_ids)}
        assert accepted - outcomes.keys() == set(), "lost"
        assert accepted - decided == set(), "without a verdict"
        assert {row[0] for row in await self.connection.fetch(_PARKED)} == set()
        unasked = (outcomes.keys() | decided) - accepted
        assert len(unasked) <= _unanswered(result), "stored or decided more than was ordered"
        assert await Audit(self.connection).unbalanced() == []
        return len(unasked)

    async def _get(self, name: str, path: str) -> dict[str, Any]:
        async with self.client(name) as client:
            response = await client.get(path)
        assert response.status_code == 200, response.text
        content: dict[str, Any] = response.json()
        return content


@asynccontextmanager
async def deployed(
    environment: Mapping[str, str],
    *,
    database_url: str | None = None,
    own: Mapping[str, Mapping[str, str]] | None = None,
    trees: Mapping[str, Path] | None = None,
) -> AsyncIterator[Deployment]:
    """Run the four services of an order's path for the block. Yields them ready.

    `database_url`: the tests' own, if it differs from the services'. `own`, `trees`: see Deployment.
    """
    async with connected(database_url or environment["DATABASE_URL"]) as connection, AsyncExitStack() as stack:
        # The caller's own mapping, even if it is empty now: fixtures fill it later.
        its_own = {} if own is None else own
        deployment = Deployment(environment, connection, stack, own=its_own, trees=dict(trees or {}))
        await deployment.start_missing()
        yield deployment


def _unanswered(result: LoadResult[None]) -> int:
    """The number of requests that may have left an order although no 202 said so."""
    return sum(not 200 <= status < 300 and not is_refused(status) for status in result.statuses)
