"""Gives a command a connected publisher for a block, or an error that says why there is none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import structlog

from pipeline.broker.publisher import Declare, Outcome, Publisher
from pipeline.process import lifecycle
from pipeline.process.health import Health
from pipeline.process.logs.configure import never_raising
from pipeline.process.settings import BrokerSettings
from stack.errors import HeadraceError

CONNECT_PATIENCE_S = 10.0
POLL_S = 0.02
PART = "publisher"

CAUSES = {
    Outcome.REFUSED: "the queue is full",
    Outcome.BROKEN: "the broker refuses messages although the queue has room; if that goes on, restart the broker",
    Outcome.UNROUTABLE: "no queue is bound to the routing key",
    Outcome.NOT_SENT: "the connection was lost, or the broker blocks publishers: memory or disk alarm",
    Outcome.UNKNOWN: "the broker did not answer in time",
}


@contextlib.asynccontextmanager
async def publishing(amqp_url: str, name: str, declare: Declare) -> AsyncIterator[Publisher]:
    """`name`: of the command, shown by the broker. Raises HeadraceError if the broker cannot be used."""
    health = Health(name, PART)
    publisher = Publisher(BrokerSettings.model_validate({"AMQP_URL": amqp_url}), health, PART, declare)
    with _errors_to_standard_error:
        running = asyncio.create_task(publisher.run())
        try:
            await _connected(publisher, health, running)
            yield publisher
        finally:
            await lifecycle.end([running])


class _ErrorsToStandardError:
    """Sends errors from the log to standard error, because standard output may be for programs.

    structlog has one configuration for the process. It is restored when the last of overlapping blocks ends.
    """

    def __init__(self) -> None:
        self._blocks = 0
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        if not self._blocks:
            self._before = structlog.get_config()
            structlog.configure(
                processors=[
                    structlog.processors.add_log_level,
                    # structlog's default shows each frame's local variables, and among them URLs with passwords.
                    structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
                ],
                logger_factory=structlog.PrintLoggerFactory(sys.stderr),
                wrapper_class=never_raising(logging.ERROR),
            )
        self._blocks += 1

    def __exit__(self, *_: object) -> None:
        self._blocks -= 1
        if not self._blocks:
            structlog.configure(**self._before)


_errors_to_standard_error = _ErrorsToStandardError()


async def _connected(publisher: Publisher, health: Health, running: asyncio.Task[None]) -> None:
    try:
        async with asyncio.timeout(CONNECT_PATIENCE_S):
            while not publisher.is_open:
                if running.done():
                    running.result()
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        parts = health.summary()["parts"]
        cause = parts[PART] if isinstance(parts, dict) else ""
        raise HeadraceError("the broker cannot be used", cause, "./headrace status; ./headrace logs rabbitmq") from None
