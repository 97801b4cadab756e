"""Configures logging: structlog, the standard library's, warnings and standard error become JSON lines on one sink."""

import json
import logging
import sys
import time
from collections.abc import Hashable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict

from pipeline.process import metrics
from pipeline.process.logs.floods import Floods
from pipeline.process.logs.sink import (
    FLOOD,
    MAX_LINE_BYTES,
    STDERR,
    STDOUT,
    UNRENDERABLE,
    LineStream,
    LogSink,
    open_standard_streams,
)

# Fields with few values that distinguish lines of one event: each combination has its own allowance.
_TELLING_APART = ("part", "queue", "reason", "cause", "server")
_SUPPRESSED = "suppressed"

_sinks: list[LogSink] = []
"""This process's sinks."""


def protect_streams(program: str) -> LogSink:
    """Make printing never raise or wait. A process calls it before anything else.

    Returns the sink of standard error, which logs go to as well.
    """
    open_standard_streams()

    def tell(count: int, why: str) -> str:
        return _own_line(program, "warning", "log lines were dropped", dropped=count, why=why)

    errors, output = LogSink(STDERR, tell), LogSink(STDOUT, tell)
    # A stream that is already replaced, as by a test, stays. None: the descriptor was closed.
    if sys.stderr in (None, sys.__stderr__):
        sys.stderr = LineStream(errors, STDERR)
    if sys.stdout in (None, sys.__stdout__):
        sys.stdout = LineStream(output, STDOUT)
    _sinks[:] = errors, output
    return errors


def flush() -> None:
    """Wait a moment until all log lines are written. Call it before a process ends abruptly."""
    for sink in _sinks:
        sink.flush()


def configure(service: str, level: str, sink: LogSink) -> None:
    """Log to `sink`: one JSON object a line, from our code and the libraries alike, each kind of line bounded."""
    floods = Floods()
    sink.on_tick = lambda: _tell_ended_floods(floods, sink, service)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _method, event: {**event, "service": service},
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        # Bound first, so that a dropped line costs no traceback.
        processors=[lambda _, method, event: _bounded(floods, method, event), *shared, *_rendering()],
        wrapper_class=never_raising(number),
        logger_factory=lambda *_: _SinkLogger(sink),
        cache_logger_on_first_use=True,
    )
    handler = _SinkHandler(sink, floods)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering()],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.raiseExceptions = False
    logging.captureWarnings(True)


# ── what is written


def kind_of(method: str, event: EventDict) -> Hashable:
    """The kind of a line, for bounding: its level, its event, fields with few values, where its exception is from.

    `method`: info, warning, …
    """
    told_apart = tuple(str(event[name])[:100] for name in _TELLING_APART if name in event)
    return method, str(event.get("event"))[:200], told_apart, _origin(event.get("exc_info"))


def _bounded(floods: Floods, method: str, event: EventDict) -> EventDict:
    left_out = floods.admit(kind_of(method, event), time.monotonic())
    if left_out is None:
        metrics.LOG_LINES_DROPPED.count(FLOOD)
        raise structlog.DropEvent
    if left_out:
        event[_SUPPRESSED] = left_out
    return event


def _origin(exc_info: object) -> tuple[str, str, int] | None:
    """The type of an exception, and the file and line that raised it."""
    if exc_info is True:
        exc_info = sys.exc_info()[1]
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(error, BaseException):
        return None
    last = _last(error.__traceback__)
    where = (last.tb_frame.f_code.co_filename, last.tb_lineno) if last else ("", 0)
    return type(error).__name__, *where


def _last(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


# What a person looks at first comes first.
_FIRST = ("timestamp", "level", "event")
# Characters kept of each value in a line that is too long, so that the line stays JSON.
_LONGEST_VALUE = 4_000


def render(event: EventDict) -> str:
    """Render an event as one line of JSON, whatever it holds, and not too long for the sink."""
    event = {**{name: event[name] for name in _FIRST if name in event}, **event}
    line = _json(event)
    if len(line.encode()) <= MAX_LINE_BYTES:
        return line
    return _json({name: _shortened(value) for name, value in event.items()})


def _json(event: EventDict) -> str:
    try:
        # orjson, because an event is an untyped dict of any values, which it encodes best.
        return orjson.dumps(event, default=repr).decode()
    except Exception:  # an integer of more than 64 bits, half a surrogate pair, a repr that fails
        return json.dumps({str(name): _printable(value) for name, value in event.items()})


def _shortened(value: object) -> object:
    """Cut the middle of a long value: a traceback says most at its two ends."""
    text = _printable(value)
    return value if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE // 2]} … {text[-_LONGEST_VALUE // 2 :]}"


def _printable(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"


def _rendering() -> list[structlog.typing.Processor]:
    return [structlog.processors.format_exc_info, lambda _logger, _method, event: render(event)]


def _own_line(service: str, level: str, event: str, **fields: object) -> str:
    """Render a line that passes through no logger."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return render({"event": event, **fields, "level": level, "timestamp": now, "service": service})


# ── I/O below


def never_raising(level: int) -> type[Any]:
    """structlog's logger for this level, with calls that never raise: a line that cannot be rendered is counted."""

    class NeverRaising(structlog.make_filtering_bound_logger(level)):  # type: ignore[misc]  # made at run time
        def _proxy_to_logger(self, method_name: str, event: str | None = None, **fields: Any) -> None:
            try:
                super()._proxy_to_logger(method_name, event, **fields)
            except Exception:
                metrics.LOG_LINES_DROPPED.count(UNRENDERABLE)

    return NeverRaising


class _SinkLogger:
    """The logger that structlog writes to."""

    def __init__(self, sink: LogSink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = sink.put


class _SinkHandler(logging.Handler):
    """The handler that the standard library's loggers write to. A line's kind is its call site: texts may differ."""

    def __init__(self, sink: LogSink, floods: Floods) -> None:
        super().__init__()
        self._sink, self._floods = sink, floods

    def emit(self, record: logging.LogRecord) -> None:
        try:
            error = record.exc_info[1] if record.exc_info else None
            kind = (record.levelname, f"{record.name}, line {record.lineno}", record.pathname, _origin(error))
            left_out = self._floods.admit(kind, time.monotonic())
            if left_out is None:
                metrics.LOG_LINES_DROPPED.count(FLOOD)
                return
            record.msg, record.args = _text_of(record), None
            if left_out:
                record.msg += f" ({left_out} of these were left out before)"
            self._sink.put(self.format(record))
        except Exception:
            metrics.LOG_LINES_DROPPED.count(UNRENDERABLE)


def _text_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a bug of the library: the arguments do not fit the text
        return str(record.msg)


def _tell_ended_floods(floods: Floods, sink: LogSink, service: str) -> None:
    for kind, left_out in floods.ended(time.monotonic()):
        assert isinstance(kind, tuple)
        level, event = str(kind[0]).lower(), kind[1]
        sink.put(_own_line(service, level, "lines of one kind were left out", of=event, suppressed=left_out))
