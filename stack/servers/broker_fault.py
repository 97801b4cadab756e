"""Detects a RabbitMQ that answers but does no work, which only a restart fixes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import aiormq
import aiormq.abc
from aiormq.exceptions import ConnectionInternalError, DeliveryError, PublishError
from pamqp.commands import Basic
from pamqp.common import FieldTable

# A quorum queue of the supervisor's own, with one message, so it can never be full. If it refuses a message or does not
# answer, the broker is at fault.
QUEUE = "headrace.supervisor"
_ARGUMENTS: FieldTable = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "drop-head"}
_TIMEOUT_S = 3.0
# RabbitMQ raises its alarm at 50 MB (rabbitmq.CONFIGURATION). With less than twice that, a restart would not help.
_ROOM_BYTES = 100_000_000


class BrokerFault:
    """Publishes an empty message and waits for its confirm, which proves that disk and queue work."""

    def __init__(self, address: str, directory: Path) -> None:
        """`directory`: where the broker keeps its data."""
        self._address, self._directory = address, directory
        self._connection: aiormq.abc.AbstractConnection | None = None
        self._channel: aiormq.abc.AbstractChannel | None = None

    async def look(self) -> str | None:
        """Why only a restart helps. None if the broker works, is unreachable, is blocked by an alarm or has no room."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._publish()
            return None
        except (DeliveryError, ConnectionInternalError) as error:
            why = "it refuses messages" if isinstance(error, DeliveryError) else "INTERNAL_ERROR"
            await self.close()
            return f"its quorum queues are down: {why}" if self._has_room() else None
        except (Exception, asyncio.CancelledError) as error:
            # No answer proves nothing: the broker may be stopped, or busy. If the connection dies, the client may raise
            # a CancelledError of its own.
            await self.close()
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            return None

    async def close(self) -> None:
        """Close the connection: an old channel may wait for its confirms for ever. Never raises."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_TIMEOUT_S):
                    await connection.close()

    async def _publish(self) -> None:
        if self._connection is None:
            self._connection = await aiormq.connect(self._address)
        if self._channel is None:
            self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            await self._declare(self._channel)
        properties = Basic.Properties(delivery_mode=2)
        try:
            # Mandatory: the broker also confirms a message that no queue takes, which would prove nothing.
            await self._channel.basic_publish(b"", routing_key=QUEUE, properties=properties, mandatory=True)
        except PublishError:  # also a DeliveryError: the queue was deleted
            await self._declare(self._channel)

    @staticmethod
    async def _declare(channel: aiormq.abc.AbstractChannel) -> None:
        await channel.queue_declare(QUEUE, durable=True, arguments=_ARGUMENTS)

    def _has_room(self) -> bool:
        """Whether the disk has room. False if its directory cannot be read: then the broker would not start again."""
        try:
            return shutil.disk_usage(self._directory).free > _ROOM_BYTES
        except OSError:
            return False
