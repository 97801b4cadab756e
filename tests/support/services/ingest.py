"""ingest_api as its clients and its broker see it."""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import httpx
import msgspec
from aio_pika.abc import AbstractIncomingMessage

from pipeline.contract import topology
from pipeline.contract.cancellations import SCHEMA as CANCEL_SCHEMA
from pipeline.contract.cancellations import Cancellation, decode_cancellation
from pipeline.contract.product_events import ProductEvent, encode_event
from tests.support.services.processes import Service, service_process
from tests.support.time.conditions import eventually

ORDERS = "/api/v1/orders"


@dataclass(frozen=True)
class Ingest:
    """A running ingest_api with its servers."""

    service: Service
    client: httpx.AsyncClient
    environment: Mapping[str, str]

    async def order(self, product_id: str, quantity: object = 1, **headers: str) -> httpx.Response:
        return await self.client.post(ORDERS, json={"productId": product_id, "quantity": quantity}, headers=headers)

    async def cancel(self, order_id: str, body: object = None, query: str = "", **headers: str) -> httpx.Response:
        content: dict[str, Any] = {} if body is None else {"json": body}
        return await self.client.post(f"{ORDERS}/{order_id}/cancel{query}", headers=headers, **content)

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path)

    async def part(self, name: str) -> str:
        """The status of a part in /health: "ok", or what is wrong."""
        return str((await self.get("/health")).json()["parts"][name])

    async def queued(self) -> list[AbstractIncomingMessage]:
        return await messages_in(self.environment["AMQP_URL"], topology.ORDERS_ACCEPTED_QUEUE)

    async def queued_orders(self) -> list[bytes]:
        """The bytes of each order in each queued message."""
        return [order for message in await self.queued() for order in elements_of(message.body)]

    async def cancel_requests(self) -> list[Cancellation]:
        """The queued cancellations."""
        messages = await messages_in(self.environment["AMQP_URL"], topology.ORDERS_CANCEL_REQUESTED_QUEUE)
        assert all(it.headers["schema"] == CANCEL_SCHEMA for it in messages)
        return [decode_cancellation(element) for it in messages for element in elements_of(it.body)]

    async def tell(self, key: str, event: ProductEvent) -> None:
        """Publish an event on products_exchange."""
        async with await aio_pika.connect(self.environment["AMQP_URL"]) as connection:
            exchange = await (await connection.channel()).get_exchange(topology.PRODUCTS_EXCHANGE)
            await exchange.publish(aio_pika.Message(encode_event(event)), key)

    async def metric(self, sample: str) -> float:
        return await self.service.metric(sample)


@asynccontextmanager
async def ingesting(
    environment: Mapping[str, str], *, ready: str = "/readyz", **settings: object
) -> AsyncIterator[Ingest]:
    """Run ingest_api as a process. `settings`: by field name, as in `accepted_status=201`."""
    variables = {f"INGEST_API_{name.upper()}": str(value) for name, value in settings.items()}
    async with (
        service_process("ingest_api", {**environment, **variables}, ready=ready) as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as client,
    ):
        ingest = Ingest(service, client, environment)
        if ready == "/readyz":
            await eventually(lambda: _hears_events(ingest))
        yield ingest


async def _hears_events(ingest: Ingest) -> bool:
    return await ingest.part("product events") == "ok"


def check_problem(response: httpx.Response, status: int, name: str) -> None:
    """Assert that the response is this problem, as RFC 9457 requires."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    if response.request.method != "HEAD":
        problem = response.json()
        assert problem.keys() - {"errors"} == {"type", "title", "status", "detail"}
        assert (problem["type"], problem["status"]) == (f"/docs/problems/{name}", status)
        assert problem["title"]
        assert problem["detail"]


async def messages_in(amqp_url: str, queue_name: str) -> list[AbstractIncomingMessage]:
    """Read all messages of a queue and leave them there."""
    messages = []
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue(queue_name)
        while (message := await queue.get(fail=False)) is not None:
            messages.append(message)
    return messages


def elements_of(body: bytes) -> list[bytes]:
    return [bytes(element) for element in msgspec.json.decode(body, type=list[msgspec.Raw])]


async def insert_product(database_url: str, price: str = "12.50", qty: int = 50) -> str:
    """Insert a product with its stock adjustment. Returns its id."""
    product_id = str(uuid.uuid4())
    await execute(
        database_url,
        "INSERT INTO products (id, name, price, qty) VALUES ($1, 'x', $2, $3)",
        *(product_id, Decimal(price), qty),
    )
    if qty:
        adjustment = "INSERT INTO stock_adjustments (product_id, delta, reason) VALUES ($1, $2, 'creation')"
        await execute(database_url, adjustment, product_id, qty)
    return product_id


async def execute(database_url: str, statement: str, *values: object) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()


def vhost_of(amqp_url: str) -> str:
    return urlsplit(amqp_url).path[1:]
