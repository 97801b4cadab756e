"""GET /api/v1/events: a page of the event log, or a stream that follows it. `Accept` decides which."""

import asyncio
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from ingest_api.events.query import EventQuery, Position, Selection, next_link
from ingest_api.events.reader import EventPage, EventReader
from ingest_api.events.stream import MEDIA_TYPE, EventStream
from ingest_api.events.wanted import Ended, while_wanted
from pipeline.contract.order_events import InvalidCursor, decode_cursor, join_events
from pipeline.process import metrics
from pipeline.process.shares import Busy, Shares
from web.access.clients import Guard
from web.problems import problems
from web.problems.problems import FieldError
from web.requests.accept import prefers_event_stream
from web.requests.head import Head, client_now, head_of

LAST_EVENT_ID = "Last-Event-ID"
_NOT_FOR_A_PAGE = (
    f"{LAST_EVENT_ID} resumes a stream, and this request asks for a page. For a stream, send Accept: {MEDIA_TYPE}. For"
    " a page, send the id as the query parameter after."
)


class ListEvents:
    """The endpoint."""

    def __init__(
        self, reader: EventReader, guard: Guard, *, max_waiting: int, max_streams: int, stopped: asyncio.Event
    ) -> None:
        """`guard`: checks that the client of a page that has waited, or of a stream, may still read. `max_waiting`:
        pages that wait for an event; those past it, or past their client's share, are answered at once. `max_streams`:
        at once. `stopped`: once it is set, waits and streams end.
        """
        self._reader, self._guard, self._stopped = reader, guard, stopped
        self._waits, self._streams = Shares("waits for events", max_waiting), Shares("event streams", max_streams)

    async def get(self, request: Request) -> ASGIApp:
        query, head = EventQuery.of(request.query_params), head_of(request)
        last_ids = request.headers.getlist(LAST_EVENT_ID)
        if prefers_event_stream(request.headers.getlist("accept")):
            return await self._stream(request, query, head, _last_event(last_ids))
        if last_ids:
            raise problems.malformed(_NOT_FOR_A_PAGE)
        return await self._page(request, query, head)

    async def _page(self, request: Request, query: EventQuery, head: Head) -> Response:
        selection, asker = query.selection(head.client), head.client.name
        with self._reader.following():
            page = await self._reader.page(await self._reader.begin(query.after), selection, asker, query.limit)
            if _is_empty(page) and query.wait_s:
                waited = await self._wait(request, query, page, selection, asker)
                # With other rights, the page of before says where to go on, and shows nothing.
                page = waited if self._sees_the_same(head) else page
        metrics.EVENTS_ANSWERED.labels("page").inc(len(page.events))
        headers = {
            "Cache-Control": "no-store",
            "Vary": "Accept",
            "Link": next_link(request.url, request.query_params, page.upto.cursor),
        }
        return Response(join_events(it.encoded for it in page.events), media_type="application/json", headers=headers)

    async def _wait(
        self, request: Request, query: EventQuery, page: EventPage, selection: Selection, asker: str
    ) -> EventPage:
        """The page as soon as it has an event; after `wait_s`, or if waiting is no use, as it is."""
        try:
            with self._waits.places(asker):
                work = self._next_page(query, page, selection, asker)
                ended, found = await while_wanted(work, request.receive, self._stopped)
        except Busy:
            return page
        if ended is Ended.LEFT:
            raise ClientDisconnect
        return found or page

    async def _next_page(self, query: EventQuery, page: EventPage, selection: Selection, asker: str) -> EventPage:
        loop = asyncio.get_running_loop()
        until = loop.time() + query.wait_s
        while _is_empty(page) and (rest_s := until - loop.time()) > 0:
            await self._reader.wait(page.upto, rest_s)
            page = await self._reader.page(page.upto, selection, asker, query.limit)
        return page

    async def _stream(self, request: Request, query: EventQuery, head: Head, resumed: Position | None) -> EventStream:
        errors = [
            FieldError(f"A stream has no {it}: leave it out, or ask for JSON.", parameter=it)
            for it in ("limit", "wait")
            if it in request.query_params
        ]
        if errors:
            raise problems.invalid_values(errors)
        # A browser that lost a stream asks for the same URL again, `after` included: where it was comes first.
        position = await self._reader.begin(resumed or query.after)
        selection, check = query.selection(head.client), partial(self._sees_the_same, head)
        return EventStream(self._reader, position, selection, head.client.name, self._streams, check, self._stopped)

    def _sees_the_same(self, head: Head) -> bool:
        """Whether the client sees the events that it saw when its request began. Raises Problem (401, 403)."""
        return client_now(head, self._guard).sees_as(head.client)


def _is_empty(page: EventPage) -> bool:
    """Whether the page has no event because the log has none; not because the search has ended early."""
    return not page.events and page.is_end


def _last_event(values: list[str]) -> Position | None:
    """Where Last-Event-ID resumes; None if there is none. Raises Problem (400)."""
    if not values:
        return None
    if len(values) > 1:
        raise problems.malformed(f"{LAST_EVENT_ID} comes {len(values)} times. Send it once.")
    if not values[0]:
        raise problems.malformed(f"{LAST_EVENT_ID} is empty. Send the id of the last message, or leave the header out.")
    try:
        return Position(*decode_cursor(values[0]))
    except (UnicodeEncodeError, InvalidCursor):
        raise problems.malformed(f"{LAST_EVENT_ID} must be the id of a message of this stream.") from None
