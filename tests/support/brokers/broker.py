"""RabbitMQ for a test: settings, publishing, reading, the management API."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import aiormq.exceptions
import httpx
from aio_pika.abc import AbstractChannel, AbstractConnection

from pipeline.contract.orders import SCHEMA, AnyOrder, schema_of_all
from pipeline.process import lifecycle
from pipeline.process.settings import PipelineSettings
from tests.support.data.orders import body_of
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually

_CONNECT_TIMEOUT_S = 10
_ASKED_FOR_NOTHING = 4


def broker_settings(amqp_url: str, **changes: object) -> PipelineSettings:
    """Settings of a process that uses only the broker."""
    environment = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "AMQP_URL": amqp_url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "ORDER_ID_KEY": "6b" * 32,
    }
    return settings_from(PipelineSettings, environment, **changes)


@asynccontextmanager
async def running_task(*coroutines: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run endless coroutines for the block. Raises what one of them raised if it ended."""
    tasks = [asyncio.create_task(it) for it in coroutines]
    try:
        yield tasks
    finally:
        await lifecycle.end(tasks)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


@asynccontextmanager
async def plain_channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """A channel of the test's own, with confirms. Of a cluster's nodes, it takes the first that answers."""
    async with await _connect(amqp_url.split(",")) as connection:
        yield await connection.channel(publisher_confirms=True)


async def _connect(urls: list[str]) -> AbstractConnection:
    *others, last = urls
    for url in others:
        with contextlib.suppress(OSError, aiormq.exceptions.AMQPError):
            return await aio_pika.connect(url, timeout=_CONNECT_TIMEOUT_S)
    return await aio_pika.connect(last, timeout=_CONNECT_TIMEOUT_S)


async def send(
    channel: AbstractChannel, exchange: str, key: str, *bodies: bytes, headers: Mapping[str, Any] | None = None
) -> None:
    """Publish one message for each body, confirmed, with the header of schema 1 by default."""
    target = await channel.get_exchange(exchange, ensure=False)
    for body in bodies:
        message = aio_pika.Message(body, headers=dict(headers if headers is not None else {"schema": SCHEMA}))
        await target.publish(message, key)


async def send_orders(channel: AbstractChannel, exchange: str, key: str, *orders: AnyOrder) -> None:
    """Publish the orders as one message, as the services do."""
    await send(
        channel, exchange, key, body_of(*orders), headers={"schema": schema_of_all(orders), "orders": len(orders)}
    )


async def take(channel: AbstractChannel, queue: str) -> bytes:
    """Wait for the next message of a queue, and acknowledge it. Returns its body."""
    plain = await channel.get_queue(queue, ensure=False)

    async def get() -> aio_pika.abc.AbstractIncomingMessage | None:
        return await plain.get(fail=False)

    message = await eventually(get)
    assert message is not None
    await message.ack()
    return message.body


class Management:
    """A client of the management API, for one vhost."""

    def __init__(self, rabbitmq_api: str, amqp_url: str) -> None:
        self._client = httpx.AsyncClient(base_url=rabbitmq_api, timeout=30)
        self._vhost = urlsplit(amqp_url).path.lstrip("/")
        self._user = urlsplit(amqp_url).username

    async def start_over(self) -> None:
        """Delete the vhost, so that the broker closes all connections to it, and create it again, empty."""
        await self.delete_vhost()
        await self.make_vhost()

    async def delete_vhost(self) -> None:
        await self._call("DELETE", f"/api/vhosts/{self._vhost}")

    async def make_vhost(self) -> None:
        await self._call("PUT", f"/api/vhosts/{self._vhost}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        await self._call("PUT", f"/api/permissions/{self._vhost}/{self._user}", everything)

    async def delete_queue(self, queue: str) -> None:
        await self._call("DELETE", f"/api/queues/{self._vhost}/{queue}")

    async def arguments(self, queue: str) -> dict[str, object]:
        """The arguments that the queue was declared with."""
        declared = (await self._call("GET", f"/api/queues/{self._vhost}/{queue}")).json()
        arguments: dict[str, object] = declared["arguments"]
        return arguments

    async def _call(self, method: str, path: str, content: object = None) -> httpx.Response:
        return (await self._client.request(method, path, json=content)).raise_for_status()

    async def __aenter__(self) -> "Management":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


async def unsettled(amqp_url: str, queue: str) -> int:
    """The number of messages in the queue once no consumer holds unacknowledged ones.

    RabbitMQ also says 0 if the leader of a quorum queue does not answer within 250 ms, so a 0 is asked for again.
    """
    async with plain_channel(amqp_url) as channel:
        for _ in range(_ASKED_FOR_NOTHING):
            declared = await channel.declare_queue(queue, passive=True)
            if count := declared.declaration_result.message_count:
                return count
    return 0


async def gets_back(amqp_url: str, queue: str, count: int) -> None:
    """Wait until so many messages are in the queue: a little later than the end of the consumer that held them."""
    await eventually(lambda: _holds(amqp_url, queue, count))


async def _holds(amqp_url: str, queue: str, count: int) -> bool:
    return await unsettled(amqp_url, queue) == count


async def consumers_of(amqp_url: str, queue: str) -> int:
    """The number of consumers that the broker knows."""
    async with plain_channel(amqp_url) as channel:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.consumer_count or 0


async def delivery_counts(amqp_url: str, queue: str) -> list[int]:
    """The delivery count of each ready message, as the broker counts. Looking adds one."""
    counts = []
    async with plain_channel(amqp_url) as channel:
        plain = await channel.get_queue(queue, ensure=False)
        while message := await plain.get(fail=False):
            counts.append(int(str(message.headers.get("x-delivery-count", 0))))
    return counts
