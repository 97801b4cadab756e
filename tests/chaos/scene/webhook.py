"""A webhook of a scenario: a receiver that takes events, or fails in each way that receivers do."""

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from tests.chaos.account.event_readers import EventReader
from tests.chaos.scene.event_reading import Take
from tests.support.scenes.events.receiver import OK, Behave, Received, Receiver, receiving


class Webhook:
    """What the hook's receiver has taken is what it answered 2xx to, or received whole before it failed to say so."""

    def __init__(self, reader: EventReader, take: Take) -> None:
        self.reader = reader
        self.hook_id = ""
        self._take = take
        self._stack = AsyncExitStack()
        self._receiver: Receiver | None = None
        self._behave: Behave = self.taking()
        self.url = ""
        self.most_at_once = 0

    async def up(self) -> None:
        """Listen; after `down`, at the same address."""
        port = urlsplit(self.url).port or 0
        self._receiver = await self._stack.enter_async_context(receiving(port))
        self._receiver.behave = self._behave
        self.url = self._receiver.url

    async def down(self) -> None:
        """Close all connections, and take no more."""
        if self._receiver is not None:
            self.most_at_once = max(self.most_at_once, self._receiver.most_at_once)
        self._receiver = None
        await self._stack.aclose()

    def behaves(self, behave: Behave) -> None:
        self._behave = behave
        if self._receiver is not None:
            self._receiver.behave = behave

    def taking(self, raw: bytes = OK, *, after_s: float = 0, hang_up: bool = False) -> Behave:
        """Take the events, wait, and answer with these bytes."""

        async def behave(request: Received, writer: asyncio.StreamWriter) -> bool:
            await self._take(request.body if request.body.startswith(b"[") else b"[" + request.body + b"]")
            await asyncio.sleep(after_s)  # a slow receiver; no test waits for this
            writer.write(raw)
            await writer.drain()
            return not hang_up

        return behave
