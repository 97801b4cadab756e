"""A client of server-sent events that remembers everything it was sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.time.conditions import eventually

ACCEPT = {"Accept": "text/event-stream"}


class EventStreamClient:
    """What came on a stream so far. Reads as the WHATWG's specification says."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.events: list[dict[str, Any]] = []
        """The data of each event."""
        self.types: list[str] = []
        """The type of each event."""
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self.comments = 0
        self.is_ended = False
        """Whether the server has ended the stream in good order."""

    @property
    def order_ids(self) -> list[str]:
        return [it["order"]["id"] for it in self.events]

    async def has(self, count: int, timeout_s: float = 10) -> None:
        """Wait for `count` events."""
        await eventually(lambda: len(self.events) >= count, timeout_s)

    async def read(self) -> None:
        fields: dict[str, str] = {}
        async for line in self.response.aiter_lines():
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            else:
                self._dispatch(fields)
                fields = {}
        self.is_ended = True

    def _dispatch(self, fields: dict[str, str]) -> None:
        self.last_event_id = fields.get("id", self.last_event_id)
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        if "data" in fields:
            self.types.append(fields.get("event", "message"))
            self.events.append(json.loads(fields["data"]))


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[EventStreamClient]:
    """Follow a stream for the block. Yields once the server has said where it begins."""
    async with client.stream("GET", path, headers={**ACCEPT, **headers}, timeout=httpx.Timeout(15)) as response:
        assert response.status_code == 200, await response.aread()
        stream = EventStreamClient(response)
        reading = asyncio.create_task(stream.read())
        try:
            await eventually(lambda: stream.retry_ms is not None)
            yield stream
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
