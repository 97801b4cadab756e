"""Follows the event log while a demo sends its orders, as a service that comes after would: page by page."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from proof.events import EventBook, decode_events
from stack.errors import HeadraceError
from stack.process.http import OPENER, authorization

_PAGE, _WAIT_S = 1000, 2
_TIMEOUT_S = 15.0
# A service that was killed is back in less, as it may be in a demo that shows that.
_PATIENCE_S = 60.0
_REST_S = 0.2
_NEXT = re.compile(r'<[^>]*[?&]after=([^&>]+)[^>]*>; rel="next"')


class DemoEvents:
    """Reads the events of a demo's orders."""

    def __init__(self, ingest_api: str, token: str | None) -> None:
        self._url = f"{ingest_api}/api/v1/events"
        self._headers = authorization(token)
        self._cursor = ""
        self.book = EventBook()

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Read all events from now on, during the block. Raises HeadraceError if the log cannot be read now."""
        _, self._cursor = await self._page("now", 0)
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def until_read(self, order_ids: Sequence[str]) -> None:
        """Wait until each of these orders has an event, or nothing more has come for a while."""
        lacking, until = self.book.lacks(order_ids), time.monotonic() + _PATIENCE_S
        while lacking and time.monotonic() < until:
            await asyncio.sleep(_REST_S)
            if (now := self.book.lacks(order_ids)) < lacking:
                lacking, until = now, time.monotonic() + _PATIENCE_S

    async def _follow(self) -> None:
        """Read until cancelled. While ingest_api or PostgreSQL is away, try again."""
        while True:
            try:
                await self._read()
            except HeadraceError:
                await asyncio.sleep(_REST_S)

    async def _read(self) -> None:
        page, self._cursor = await self._page(self._cursor, _WAIT_S)
        try:
            self.book.add(decode_events(page), time.perf_counter())
        except msgspec.DecodeError as error:
            raise HeadraceError(f"{self._url} answers no events: {error}") from error

    async def _page(self, after: str, wait_s: int) -> tuple[bytes, str]:
        """A page after a cursor, and the next one. Raises HeadraceError."""
        url = f"{self._url}?after={after}&limit={_PAGE}" + (f"&wait={wait_s}" if wait_s else "")
        try:
            return await asyncio.to_thread(self._get, url)
        except (OSError, ValueError) as error:
            raise HeadraceError(f"{self._url} does not answer: {error}", fix="./headrace logs ingest_api") from error

    def _get(self, url: str) -> tuple[bytes, str]:
        request = urllib.request.Request(url, headers=self._headers)  # noqa: S310 - our own http:// URL
        with OPENER.open(request, timeout=_TIMEOUT_S) as response:
            found = _NEXT.search(response.headers.get("Link", ""))
            if found is None:
                raise ValueError("a page without a next one")
            return response.read(), found[1]
