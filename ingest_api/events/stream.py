"""A stream of server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html

    retry: 1000                 how soon a client that lost the stream comes back, in ms
    id: CURSOR                  a message without data: no event, but where to resume. The first one says where the
                                stream begins. Others follow while the log goes on and nothing of it matches.

    id: CURSOR
    event: order.processed
    data: {…}

    :                           a comment, while nothing else is to be sent

Flow (web/serving) drops a client that reads too slowly, with what it has not read. Until then the stream holds one
write for it, and makes no other. A stream that breaks off ends between two messages, or the client drops the part.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from starlette.types import Receive, Scope, Send

from database.event_ring import FollowedEvent
from database.sessions import StoreUnavailable
from ingest_api.events.query import Position, Selection
from ingest_api.events.reader import EventPage, EventReader
from ingest_api.events.wanted import Ended, while_wanted
from pipeline.contract.order_events import encode_cursor
from pipeline.process import metrics
from pipeline.process.shares import Busy, Shares
from web.problems.problems import Problem
from web.serving.flow import READ_DEADLINE_S

MEDIA_TYPE = "text/event-stream"
# Half of the 10 s after which the quickest clients and proxies take a silent connection for a dead one.
HEARTBEAT_S = 5.0
_RETRY_MS = 1_000
# Events in one write, some 100 KB: what a stream holds for a slow client.
_AT_ONCE = 200
# Events that do not match, until the client is told where it is: a client that comes back need not pass them again.
_TELL_AFTER = 1_000
# Some clients take a blank line behind it for an event without data.
_COMMENT = b":\n"
# A client that left while a write waited for it this long was dropped by Flow. Both look the same from here.
_UNREAD_S = READ_DEADLINE_S * 0.9
_HEADERS = [
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"vary", b"Accept"),
    # nginx and others that know it pass on what comes, instead of gathering it.
    (b"x-accel-buffering", b"no"),
]


# A stream's lines end with CR or LF, which JSON escapes. But readers that know Unicode's line ends, such as httpx's
# iter_lines, would cut an event at one of these in a client's text.
_LINE_ENDS = {"\u0085": b"\\u0085", "\u2028": b"\\u2028", "\u2029": b"\\u2029"}


def messages(log_id: int, events: Iterable[FollowedEvent]) -> bytes:
    return b"".join(_messages(log_id, events))


def _messages(log_id: int, events: Iterable[FollowedEvent]) -> Iterator[bytes]:
    for it in events:
        cursor = encode_cursor(log_id, it.offset).encode()
        data = it.encoded if it.encoded.isascii() else _in_one_line(it.encoded)
        yield b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor, it.type.encode(), data)


def _in_one_line(encoded: bytes) -> bytes:
    """The same JSON with escapes for what a reader may take for the end of a line."""
    for end, escape in _LINE_ENDS.items():
        encoded = encoded.replace(end.encode(), escape)
    return encoded


def place(position: Position) -> bytes:
    """A message that moves the client's last event id, and is no event."""
    return b"id: %b\n\n" % position.cursor.encode()


# ── I/O below


class EventStream:
    """One stream, as an ASGI application."""

    def __init__(
        self,
        reader: EventReader,
        position: Position,
        selection: Selection,
        asker: str,
        places: Shares,
        check: Callable[[], bool],
        stopped: asyncio.Event,
    ) -> None:
        """`check`: called every few seconds. Says whether the client sees the same events as at the begin; raises
        Problem once it may read none.
        """
        self._reader, self._position, self._selection = reader, position, selection
        self._asker, self._places, self._check, self._stopped = asker, places, check, stopped
        self._written_at = self._checked_at = 0.0
        self._told = position.offset
        self._last_write_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Busy before anything is sent."""
        with self._places.places(self._asker), self._reader.following():
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if scope["method"] != "HEAD":
                ended, _ = await while_wanted(self._follow(send), receive, self._stopped)
                is_unread = ended is Ended.LEFT and self._last_write_s >= _UNREAD_S
                metrics.EVENT_STREAMS_ENDED.labels("unread" if is_unread else ended.value).inc()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self, send: Send) -> None:
        """Send what matches, until the client's cursor is worth nothing any more, or its key no longer what it was."""
        await self._write(send, b"retry: %d\n%b" % (_RETRY_MS, place(self._position)))
        while True:
            try:
                if not self._is_checked():
                    return
                page = await self._reader.page(self._position, self._selection, self._asker, _AT_ONCE)
            except (StoreUnavailable, Busy):
                page = EventPage([], self._position, is_end=True)
                await asyncio.sleep(1)
            except Problem:
                return
            self._position = page.upto
            await self._tell(send, page)
            if page.is_end:
                due_at = min(self._beats_at(), self._checks_at())
                await self._reader.wait(self._position, max(0.0, due_at - _now()))
            else:
                await asyncio.sleep(0)  # pages from the ring do not wait for anything else

    async def _tell(self, send: Send, page: EventPage) -> None:
        if page.events:
            self._told = page.events[-1].offset
            await self._write(send, messages(page.upto.log_id, page.events))
            metrics.EVENTS_ANSWERED.labels("stream").inc(len(page.events))
        elif page.upto.offset - self._told >= _TELL_AFTER:
            self._told = page.upto.offset
            await self._write(send, place(page.upto))
        elif _now() >= self._beats_at():
            await self._write(send, _COMMENT)

    async def _write(self, send: Send, body: bytes) -> None:
        began = _now()
        try:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            self._written_at = _now()
            self._last_write_s = self._written_at - began

    def _beats_at(self) -> float:
        return self._written_at + HEARTBEAT_S

    def _checks_at(self) -> float:
        return self._checked_at + HEARTBEAT_S

    def _is_checked(self) -> bool:
        """Whether the client has the rights with which it began, as far as was looked lately. Raises Problem (401, 403)
        if it has none.
        """
        if _now() < self._checks_at():
            return True
        self._checked_at = _now()
        return self._check()


def _now() -> float:
    return asyncio.get_running_loop().time()
