"""A queue that is bound to order_events, with its consumer; and how far the exchange is."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from database.connection import Connection
from pipeline.contract.topology import EVENTS_EXCHANGE, declare_events


@dataclass
class Consumer:
    """What a bound queue got."""

    messages: list[AbstractIncomingMessage] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for it in self.messages for event in json.loads(it.body)]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    @property
    def empty(self) -> int:
        """How many messages hold no event: event_relay has asked whether somebody is there."""
        return sum(json.loads(it.body) == [] for it in self.messages)


@asynccontextmanager
async def bound(amqp_url: str, *keys: str, **arguments: Any) -> AsyncIterator[Consumer]:
    """Bind a queue, and consume it. `keys`: routing keys, `order.*` if none is given."""
    consumer = Consumer()

    async def take(message: AbstractIncomingMessage) -> None:
        consumer.messages.append(message)
        await message.ack()

    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await declare_events(channel)
        queue = await channel.declare_queue(exclusive=True, arguments=arguments)
        for key in keys or ("order.*",):
            await queue.bind(EVENTS_EXCHANGE, key)
        await queue.consume(take)
        yield consumer


async def published(connection: Connection) -> int:
    offset: int = await connection.fetchval("SELECT published FROM event_exchange")
    return offset


async def is_at(connection: Connection, offset: int) -> bool:
    return await published(connection) == offset
