"""What uvicorn's connections lack: bounds on their number, on a request's head and on what is neither head nor body; an
answer that arrives although the client is still sending; a body when its head offers an upgrade.

uvicorn takes as many connections as come, until the process may open no more files, and then also none of its own. It
reads a head or trailers of any size for any length of time, and waits for a first request for ever. It closes with
bytes unread, which resets the connection, and most clients then never see the answer. And its parser throws the
body away when a request offers to upgrade the connection, which Java's HttpClient does by default ("h2c"): every
order from there would be 400.

What is no HTTP/1.1, or can be read in two ways, is refused by the parser (llhttp, strict): Content-Length together with
Transfer-Encoding, either of them twice or anything but digits and "chunked", a space before a colon, folded lines, bare
line feeds. What it lets pass and RFC 9112 does not, web/serving/heads.py refuses. The connection ends with each
refusal, so nothing that was smuggled behind is ever read as a request.
"""

import asyncio
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from web.problems import problems
from web.problems.problems import Problem
from web.serving import connection_limits
from web.serving.closures import Closed, closures
from web.serving.connection_limits import Config
from web.serving.flow import Flow, drop
from web.serving.heads import check_head, problem_of, with_path

# Several times what browsers and proxies send. What comes in the same read as the head before it is not counted.
MAX_HEAD_BYTES = 64 * 1024
# From the first bytes of a head to its last. What comes in one piece, as nearly every head does, sets no timer.
HEAD_DEADLINE_S = 10.0
# How long a connection may say nothing: between two requests, which uvicorn sees to, and before the first.
KEEP_ALIVE_S = 75
# How long a client that was refused may take to notice.
LINGER_S = 1.0
# And how much it may send meanwhile. What comes then is not even taken from the socket.
LINGER_BYTES = 8 * 1024**2
# What may come that nobody reads: chunk extensions and trailers at a time, and what is left of a body after its answer.
# As much as Go's net/http has the patience for.
MAX_UNREAD_BYTES = 256 * 1024
# How much of what has come is parsed at a time. Once a request has to wait for the one before it, the rest waits as it
# came: parsed, the smallest requests are eighty times as large (2.2 kB each, measured).
PARSED_BYTES = 8 * 1024
# Where trailers go: nobody here reads them, and they must not pass for headers.
_NOWHERE: Any = deque(maxlen=0)


class _StillSending:
    """The transport of a client whose request is not complete: to close it is to wait a moment first."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def close(self) -> None:
        self._connection.linger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)


class Connection(HttpToolsProtocol):
    """One connection. `on_…` is what its parser calls, in this order."""

    _is_in_head = False
    _new_bytes = 0
    """Since the request began, or since the last of its body that was read."""
    _held_bytes = 0
    _head_deadline: asyncio.TimerHandle | None = None
    _offers_upgrade = False
    _is_over = False
    """What still comes is thrown away."""
    _is_surplus = False
    _is_unfinished = False
    """In the middle of sending a request, and no other one is in hand."""
    _unparsed: bytes | memoryview = b""
    """Never there without a request that waits."""
    _refusal: Problem | None = None
    """What is said after the answers to the requests in hand, and the last that is."""
    config: Config
    flow: Flow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self.loop, self.pipeline)
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._waiting = self.config.waiting
        # Those that were closed to make room are counted until the loop comes round: so one is, for each that comes.
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
        if not self._is_surplus:  # those have no place that they could leave to others
            self._waiting[self] = None

    def _unset_keepalive_if_required(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
            self._waiting.pop(self, None)

    def _await_rest(self) -> None:
        """From now on, the rest of a request is waited for. More of it does not send its client back in the line."""
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
        """Close, for the place is needed by another. Who has sent a part of a request is told so, if it has read all
        that it was told before.
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
        if self._is_surplus:  # told only now: clients take an answer that comes before they ask for a fault
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
            # Also where the next request has begun already: this one makes room for nobody.
            if self._is_unfinished and self._unanswered and not self._unanswered[0].more_body:
                self._finish()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._new_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._head_ended()
        self._offers_upgrade = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._offers_upgrade:
            if self.url[:1] != b"/":
                self.url = with_path(self.url)
            check_head(self.parser.get_http_version(), self.headers, self.config.hosts)
            super().on_headers_complete()
            self._unanswered.append(self.cycle)
            self.headers = _NOWHERE

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
        """A transport that was closed stays until all is read. No request is waited for any more, so nothing else ends
        a client that does not read.
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
        self._new_bytes += len(data)  # the beginning of a head puts it back to 0
        while data:
            data = self._parse(data)

    def _parse(self, data: bytes | memoryview) -> bytes | memoryview:
        """Returns what is still to be parsed: all that follows a head which offered an upgrade. That head is parsed
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
        """What has come is not a whole request: see that it becomes one, or ends."""
        if self._is_in_head:
            self._bound_head()
        elif cycle is None or cycle.response_complete:
            self._await_more(cycle)
        else:
            self._bound_body(cycle)

    def _await_more(self, cycle: RequestResponseCycle | None) -> None:
        """As between two requests. uvicorn stops that clock at the first byte, be it an empty line or the rest of a
        body that nobody waits for.
        """
        self._close_after(KEEP_ALIVE_S)
        if cycle is not None and cycle.more_body and self._new_bytes > MAX_UNREAD_BYTES:
            self.linger()

    def _bound_body(self, cycle: RequestResponseCycle) -> None:
        """Its size and its time are bounded by who reads it. Extensions of chunks, and trailers, nobody reads."""
        cycle.transport = _StillSending(self)  # type: ignore[assignment]
        if len(self._unanswered) == 1:
            self._await_rest()
        held_bytes = len(cycle.body)
        if held_bytes != self._held_bytes:
            self._held_bytes, self._new_bytes = held_bytes, 0
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
        else:  # the request before it is still being answered, and until then we may not even be reading
            self._head_deadline = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late)

    def _head_ended(self) -> None:
        self._is_in_head = False
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _refuse(self, problem: Problem) -> None:
        """Answer past the application, and close; first, those that were asked before get their own answers.

        Answers have no names: a client would take the refusal for the answer to the first that it has asked.
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
        """The newest request will never be whole: it is not begun, or ends as if its client had left. Returns whether
        its own answer has begun, in the middle of which no other one can be said.
        """
        broken = self._unanswered.pop()
        if self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
        broken.disconnected = True
        broken.message_event.set()
        return broken.response_started

    def _refuse_later(self, problem: Problem) -> None:
        """All in hand are whole. What still comes is thrown away."""
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
        """Say that no more will be said, and close once the client has had time to read it.

        Closed at once, what is still unread would make it a reset, and the client would lose the answer.
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
        """Nobody waits for the requests in hand any more. uvicorn tells only the newest, and the others then write to a
        closed connection, which looks like a bug of ours in the log.
        """
        self._forget_waiting()
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
