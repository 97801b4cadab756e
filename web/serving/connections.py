"""Adds the limits that uvicorn's connections lack: their number, the size of a head, chunk extensions and trailers.
Also makes sure that a client still sending gets its answer, and that a request offering an upgrade keeps its body.

uvicorn takes as many connections as come, until the process can open no more files, for itself either. It reads a head
or trailers of any size for any length of time, and waits for a first request for ever. It closes with bytes unread,
which resets the connection, so most clients never see the answer. Its parser drops the body when a request offers to
upgrade the connection. Java's HttpClient offers that by default ("h2c"), so every order from there would be 400.

The parser (llhttp, strict) refuses what is not HTTP/1.1 or can be read in two ways: Content-Length together with
Transfer-Encoding, either of them twice or anything but digits and "chunked", a space before a colon, folded lines, bare
line feeds. web/serving/strict_http.py refuses what the parser lets pass and RFC 9112 does not. Each refusal ends the
connection, so bytes smuggled behind are never read as a request.
"""

import asyncio
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from web.problems import problems
from web.problems.problems import Problem
from web.requests.head import HEAD, parse_head
from web.serving import connection_limits
from web.serving.closures import Closed, closures
from web.serving.connection_limits import Config
from web.serving.flow import Flow, drop
from web.serving.strict_http import check_head, problem_of, with_path

# Several times what browsers and proxies send. Bytes that come in one read with the previous head are not counted.
MAX_HEAD_BYTES = 64 * 1024
# From the first bytes of a head to its last. A head that comes in one piece, as nearly every one does, sets no timer.
HEAD_DEADLINE_S = 10.0
# How long a connection may be silent: between two requests, which uvicorn enforces, and before the first.
KEEP_ALIVE_S = 75
# How long a refused client may take to notice.
LINGER_S = 1.0
# And how much it may send meanwhile. Past it, the socket is not even read.
LINGER_BYTES = 8 * 1024**2
# Limit on bytes that nobody reads: chunk extensions and trailers at a time, and the rest of a body after its answer. As
# much as Go's net/http tolerates.
MAX_UNREAD_BYTES = 256 * 1024
# How many bytes are parsed at a time. Once a request has to wait for the one before it, the rest waits unparsed.
# Parsed, the smallest requests are eighty times as large (2.2 kB each, measured).
PARSED_BYTES = 8 * 1024
# Where trailers go: nobody reads them, and they must not pass for headers.
_NOWHERE: Any = deque(maxlen=0)


class _StillSending:
    """The transport of a client whose request is not complete: closing it lingers first, so the answer arrives."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def close(self) -> None:
        self._connection.linger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)


class Connection(HttpToolsProtocol):
    """One client connection. Its parser calls the `on_…` methods, in this order."""

    _is_in_head = False
    _new_bytes = 0
    """Bytes since the request began, or since more of its body came."""
    _body_bytes = 0
    """Of the body, since they were last counted. The length of what is held would not do: the application takes the
    body while it comes, and two pieces may be equally long.
    """
    _head_deadline: asyncio.TimerHandle | None = None
    _offers_upgrade = False
    _is_over = False
    """Later bytes are discarded."""
    _is_surplus = False
    _is_unfinished = False
    """The client is in the middle of sending a request, and no other one is in hand."""
    _unparsed: bytes | memoryview = b""
    """Bytes not parsed yet; only while a request waits."""
    _refusal: Problem | None = None
    """The last answer, sent after those to the requests in hand."""
    config: Config
    flow: Flow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self.loop, self.pipeline)
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._waiting = self.config.waiting
        # A connection closed to make room still counts until the loop's next turn, so each new one closes one.
        surplus = len(self.connections) - self.config.max_connections
        self._is_surplus = surplus > 0 and not self.config.make_room()
        if self._is_surplus:
            closures.note(Closed.SURPLUS)
            if surplus > connection_limits.REFUSED_AT_ONCE:
                transport.abort()
        self._close_after(LINGER_S if self._is_surplus else KEEP_ALIVE_S)

    def _close_after(self, silence_s: float) -> None:
        self._finish()
        self.timeout_keep_alive_task = self.loop.call_later(silence_s, self.timeout_keep_alive_handler)
        if not self._is_surplus:  # a surplus connection has no place to give up
            self._waiting[self] = None

    def _unset_keepalive_if_required(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
            self._waiting.pop(self, None)

    def _await_rest(self) -> None:
        """Start waiting for the rest of a request. More of it does not send the connection back in the line."""
        if not self._is_unfinished:
            self._is_unfinished = True
            self.config.unfinished += 1
            self._waiting[self] = None

    def _finish(self) -> None:
        if self._is_unfinished:
            self._is_unfinished = False
            self.config.unfinished -= 1
            self._waiting.pop(self, None)

    def make_way(self) -> None:
        """Close to make room for another connection. A client that has sent part of a request is told so, if it has
        read all earlier answers.
        """
        if self._is_unfinished and not self.transport.get_write_buffer_size():
            self._answer(problems.too_many_connections(self.config.max_connections))
            self._is_over = True
            self._head_ended()
            self._finish()
            self.transport.close()
            self.timeout_keep_alive_task = self.loop.call_later(LINGER_S, self.timeout_keep_alive_handler)
        else:
            self.timeout_keep_alive_handler()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._see_it_end()

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            self._throw_away(len(data))
            return
        self._unset_keepalive_if_required()
        if self._is_surplus:  # answered only now: clients take an answer before their request for a fault
            self._refuse(problems.too_many_connections(self.config.max_connections))
            return
        self._take(data)

    def _take(self, data: bytes | memoryview) -> None:
        if len(data) > PARSED_BYTES:
            data = memoryview(data)
        try:
            while data:
                self._parse_all(data[:PARSED_BYTES])
                data = data[PARSED_BYTES:]
                if self.pipeline:
                    break
        except httptools.HttpParserError as error:
            self._refuse(problem_of(error))
        else:
            self._unparsed = data
            cycle: RequestResponseCycle | None = self.cycle
            if self._is_in_head or cycle is None or cycle.more_body or cycle.response_complete:
                self._bound(cycle)
            # Also if the next request has begun: with a whole one in hand, the connection is not closed to make room.
            if self._is_unfinished and self._unanswered and not self._unanswered[0].more_body:
                self._finish()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._new_bytes, self._body_bytes = True, 0, 0

    def on_headers_complete(self) -> None:
        self._head_ended()
        self._offers_upgrade = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._offers_upgrade:
            if self.url[:1] != b"/":
                self.url = with_path(self.url)
            head = parse_head(self.headers)
            self.scope[HEAD] = head  # type: ignore[literal-required]
            check_head(self.parser.get_http_version(), head, self.config.hosts)
            super().on_headers_complete()
            self._unanswered.append(self.cycle)
            self.headers = _NOWHERE

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._offers_upgrade:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._unanswered.popleft()
        if self._is_over and self._refusal is None:
            return
        super().on_response_complete()
        if self._refusal is not None and not self._unanswered and not self.transport.is_closing():
            self._refuse(self._refusal)
        elif self.timeout_keep_alive_task is not None:
            self._finish()
            self._waiting[self] = None
        elif self.transport.is_closing():
            self._see_it_end()
        elif self._unparsed and not self.pipeline:
            self._take(self._unparsed)

    def _see_it_end(self) -> None:
        """Set a deadline for a closed transport, which stays until its client has read everything. No request is
        awaited any more, so nothing else ends a client that does not read.
        """
        self._head_ended()
        self.flow.watch()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            drop(self.transport)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        self._finish()
        self._unset_keepalive_if_required()
        self._forsake()
        super().connection_lost(exc)

    def _parse_all(self, data: bytes | memoryview) -> None:
        self._new_bytes += len(data)  # the beginning of a head resets it to 0
        while data:
            data = self._parse(data)

    def _parse(self, data: bytes | memoryview) -> bytes | memoryview:
        """Parse, and return what is left to parse: everything after a head that offered an upgrade. That head is parsed
        once more, without the offer.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._offers_upgrade:
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.parser.feed_data(head)
                return memoryview(data)[upgrade.args[0] :]
        return b""

    def _head_without_offer(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _bound(self, cycle: RequestResponseCycle | None) -> None:
        """Bound an incomplete request in time and size: it becomes complete, or ends."""
        if self._is_in_head:
            self._bound_head()
        elif cycle is None or cycle.response_complete:
            self._await_more(cycle)
        else:
            self._bound_body(cycle)

    def _await_more(self, cycle: RequestResponseCycle | None) -> None:
        """Restart the idle timeout, as between two requests. uvicorn stops it at the first byte, be that an empty line
        or the rest of a body that nobody waits for.
        """
        self._close_after(KEEP_ALIVE_S)
        if cycle is not None and cycle.more_body and self._new_bytes > MAX_UNREAD_BYTES:
            self.linger()

    def _bound_body(self, cycle: RequestResponseCycle) -> None:
        """Bound chunk extensions and trailers, which nobody reads. The reader of a body bounds its size and time."""
        cycle.transport = _StillSending(self)  # type: ignore[assignment]
        if len(self._unanswered) == 1:
            self._await_rest()
        if self._body_bytes:
            self._body_bytes = self._new_bytes = 0
        elif self._new_bytes > MAX_UNREAD_BYTES:
            self._refuse(problems.head_too_large(MAX_UNREAD_BYTES))

    def _bound_head(self) -> None:
        if not self._unanswered:
            self._await_rest()
        if self._new_bytes > MAX_HEAD_BYTES:
            self._refuse(problems.head_too_large(MAX_HEAD_BYTES))
        elif self._head_deadline is None:
            self._head_deadline = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late)

    def _head_is_late(self) -> None:
        if not self._unanswered:
            closures.note(Closed.HEAD_DEADLINE)
            self._refuse(problems.too_slow("head", HEAD_DEADLINE_S))
        else:  # the previous request is still being answered, and reading may be paused until then
            self._head_deadline = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late)

    def _head_ended(self) -> None:
        self._is_in_head = False
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application, and close. Earlier requests get their own answers first.

        Answers carry no names: a client would take the refusal for the answer to its first open request.
        """
        is_answered = False
        if self._unanswered and self._unanswered[-1].more_body:
            is_answered = self._forget_broken()
        if self._unanswered:
            self._refuse_later(problem)
        else:
            if not is_answered:
                self._answer(problem)
            self.linger()

    def _forget_broken(self) -> bool:
        """Drop the newest request, which will never be whole: it never begins, or ends as if its client had left.
        Returns whether its answer has begun, because no other answer can follow in the middle of it.
        """
        broken = self._unanswered.pop()
        if self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
        broken.disconnected = True
        broken.message_event.set()
        return broken.response_started

    def _refuse_later(self, problem: Problem) -> None:
        """Refuse after the answers to the requests in hand, which are all whole. Later bytes are discarded."""
        self.cycle = self._unanswered[-1]
        self._is_over, self._refusal = True, problem
        self._unparsed, self._new_bytes = b"", 0
        self._head_ended()
        self._finish()

    def _answer(self, problem: Problem) -> None:
        self._forsake()
        response = problem.response()
        response.headers["connection"] = "close"
        headers = [b"%b: %b\r\n" % header for header in response.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[problem.status], *headers, b"\r\n", bytes(response.body)]))

    def linger(self) -> None:
        """Shut down writing, and close once the client has had time to read the answer.

        Closing at once with bytes unread would reset the connection, and the client would lose the answer.
        """
        self._is_over, self._refusal, self._new_bytes = True, None, 0
        self._forget_waiting()
        self._head_ended()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._unset_keepalive_if_required()
        self._close_after(LINGER_S)

    def _forget_waiting(self) -> None:
        self.pipeline.clear()
        self._unparsed = b""

    def _throw_away(self, size: int) -> None:
        self._new_bytes += size
        if self._new_bytes > LINGER_BYTES:
            self.flow.pause_reading()

    def _forsake(self) -> None:
        """End the requests in hand as disconnected. uvicorn tells only the newest; the others would write to a closed
        connection, which looks like a bug of Headrace in the log.
        """
        self._forget_waiting()
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
