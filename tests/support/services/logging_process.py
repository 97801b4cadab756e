"""A process whose background part only logs, or ends.

python -m tests.support.services.logging_process PART

Prints one JSON object: `rounds` of the part that logs, `late_s` (the longest delay of the event loop), and `dropped`
(log lines not written, by cause, as the metrics count them).
"""

import asyncio
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Awaitable, Callable

import structlog

from pipeline.process import lifecycle, metrics
from pipeline.process.settings import PipelineSettings
from tests.support.time.conditions import eventually

# With the traceback of each line, this is more than a pipe (64 KB) and the log's queue (1 MB) hold.
ROUNDS = 400
_SETTINGS = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "AMQP_URL": "amqp://nobody@127.0.0.1:1/",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "ORDER_ID_KEY": "0" * 32,
}

seen = {"rounds": 0, "late_s": 0.0}


async def logs() -> None:
    """Log in every possible way, each line as if new."""
    log = structlog.get_logger()
    while True:
        number = seen["rounds"] = seen["rounds"] + 1
        try:
            raise ConnectionError("x" * 4000)
        except ConnectionError:
            log.error(f"number {number}", exc_info=True)
        logging.getLogger(f"library {number}").error("number %d", number)
        logging.getLogger("library").error("one %d of too many", number, "arguments")
        warnings.warn(f"number {number}", stacklevel=1)
        print(f"number {number}", file=sys.stderr)
        log.error("whose repr fails", it=_Unprintable())
        await asyncio.sleep(0)


async def returns() -> None:
    await asyncio.sleep(0.01)


async def fails() -> None:
    await asyncio.sleep(0.01)
    raise ConnectionError


async def is_cancelled_by_a_library() -> None:
    """Raise what aiormq raises in tasks that wait on a dying connection."""
    await asyncio.sleep(0.01)
    raise asyncio.CancelledError


class _Unprintable:
    def __repr__(self) -> str:
        raise ValueError


PARTS: dict[str, Callable[[], Awaitable[None]]] = {
    it.__name__: it for it in (logs, returns, fails, is_cancelled_by_a_library)
}


async def _measure_lateness() -> None:
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(0.01)
        seen["late_s"] = max(seen["late_s"], loop.time() - began - 0.01)


async def main(_: PipelineSettings, stop: asyncio.Event) -> None:
    part = PARTS[sys.argv[1]]()
    async with lifecycle.background(part, _measure_lateness()):  # type: ignore[arg-type]
        await eventually(lambda: seen["rounds"] >= ROUNDS, 60)
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
    families = metrics.LOG_LINES_DROPPED.collect()
    dropped = {it.labels["because"]: it.value for family in families for it in family.samples}
    print(json.dumps({**seen, "dropped": dropped}), flush=True)


if __name__ == "__main__":
    os.environ.update(_SETTINGS)
    lifecycle.run("logging_process", PipelineSettings, main)
