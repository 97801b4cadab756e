"""Writes down how far hooks are, for all of them in one statement, and at most ten times a second.

So a crash repeats what was delivered in the last tenth of a second, and no more. A failure is written at once: what
was delivered before it is not sent again while its receiver is down.
"""

import asyncio
from collections import deque
from dataclasses import replace

import structlog

from database.sessions import StoreUnavailable
from event_relay.hook_store import Attempt, HookStore, Standing

log = structlog.get_logger()

_EVERY_S = 0.1
_RETRY_S = 1.0
# Kept while PostgreSQL is away. They are for people, who look at the last ones.
_MOST_ATTEMPTS = 1000


class HookProgress:
    def __init__(self, store: HookStore) -> None:
        self._store = store
        self._changed: dict[str, Standing] = {}
        self._attempts: deque[Attempt] = deque(maxlen=_MOST_ATTEMPTS)
        self._awake = asyncio.Event()
        self.writing = asyncio.Lock()
        """Held during a write. While you hold it, a row's cursor is the one that was last written."""

    def note(self, standing: Standing) -> None:
        """Write it down within a tenth of a second."""
        self._changed[standing.hook_id] = standing
        self._awake.set()

    def is_noted(self, hook_id: str) -> bool:
        """Whether something of it is not written yet."""
        return hook_id in self._changed

    def note_attempt(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        self._awake.set()

    async def run(self) -> None:
        """Write what is noted, until cancelled."""
        while True:
            await self._awake.wait()
            await asyncio.sleep(_EVERY_S if await self.flush() else _RETRY_S)

    async def flush(self) -> bool:
        """Write at once what is noted. Returns False if PostgreSQL is away; then it stays noted."""
        async with self.writing:
            self._awake.clear()
            try:
                await self._save()
                await self._tell()
            except StoreUnavailable as error:
                log.warning("the progress of webhooks was not written", error=str(error))
                self._awake.set()
                return False
        return True

    async def _save(self) -> None:
        noted = [it for it in self._changed.values() if not it.is_lost]
        self._changed.clear()
        if not noted:
            return
        written = [replace(it) for it in noted]
        for it in noted:
            it.has_delivered, it.pauses_with = False, None
        try:
            saved = await self._store.save(written)
        except BaseException:
            for it, was in zip(noted, written, strict=True):
                it.has_delivered |= was.has_delivered
                it.pauses_with = it.pauses_with or was.pauses_with
                self._changed[it.hook_id] = it
            raise
        for it, was in zip(noted, written, strict=True):
            it.saved = was.delivered
            it.is_lost = it.hook_id not in saved

    async def _tell(self) -> None:
        if attempts := list(self._attempts):
            await self._store.tell(attempts)
            for _ in range(min(len(attempts), len(self._attempts))):
                self._attempts.popleft()
