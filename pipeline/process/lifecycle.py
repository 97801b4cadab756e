"""A process from its first line to its exit code: settings, logs, event loop, signals."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog
import uvloop

from pipeline.process.logs import configure as logs
from pipeline.process.settings import EXIT_BAD_SETTINGS, ProcessSettings, load_or_exit

S = TypeVar("S", bound=ProcessSettings)


class Abandoned(Exception):
    """The process stops, and its batch cannot be done now: the broker redelivers it to another."""


class Misconfigured(Exception):
    """The settings name something unusable: exit 78, as for wrong settings. The text says what to do."""


# Longer than any of our tasks takes to end: a second cancellation would interrupt the cleanup of the first.
_CANCEL_AGAIN_S = 3.0

# EX_SOFTWARE: a bug of ours.
_EXIT_BUG = 70

# Threshold of the cycle collector's youngest generation. CPython's default is 700 objects, which 128 orders in flight
# pass all the time. An order's path makes no cycles, so the collector found nothing, but walked all imported modules.
# This saves some 25 % of ingest_api's CPU (92, 89 → 61, 63 µs an order), and takes p99 from 62 to 24 ms (128
# connections, interleaved). Five times as much gave no more. A few MB wait here for their collection.
_COLLECT_EVERY = 10_000


def run(service: str, settings_type: type[S], main: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    """Run `main(settings, stop)` to its end and exit 0. Does not return.

    The first SIGTERM or SIGINT sets `stop`; main finishes what is in hand and returns. The second signal kills the
    process at once. Wrong settings, or Misconfigured: one line for each on stderr, exit 78.
    """
    sink = logs.protect_streams(service)
    settings = load_or_exit(service, settings_type)
    logs.configure(service, settings.log_level, sink)
    try:
        uvloop.run(_main(settings, main))
    except Misconfigured as error:
        print(f"{service}: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_SETTINGS)
    sys.exit(0)


async def _main(settings: S, main: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    _reduce_garbage_collection()
    log = structlog.get_logger()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, stop, number)
    log.info("starting", pid=os.getpid())
    await main(settings, stop)
    log.info("stopped")


def _reduce_garbage_collection() -> None:
    """Hide imported modules, which stay to the end, from the cycle collector, and let it run less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, *gc.get_threshold()[1:])


@asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None], stop: asyncio.Event | None = None) -> AsyncIterator[None]:
    """Run endless coroutines beside the body, and cancel them after it.

    A coroutine that ends earlier, in any way, is a bug of ours, and ends the process at once, with exit code 70.
    Nothing in hand was acknowledged, and half a process that still reports itself alive would be worse. `stop`: once
    set, they may return.
    """
    tasks = [asyncio.create_task(_crash_if_it_ends(coroutine, stop)) for coroutine in coroutines]
    try:
        yield
    finally:
        await end(tasks)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended. Logs their errors instead of raising them.

    One cancellation may not do. Before Python 3.12, `asyncio.wait_for` loses a cancellation that arrives together with
    its result (CPython gh-86296), and redis-py sends by it.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
        for task in ended:
            if not task.cancelled() and (error := task.exception()) is not None:
                structlog.get_logger().error("failed while it was cancelled", exc_info=error)


async def work_until_stopped(
    run_once: Callable[[], Awaitable[int | None]],
    stop: asyncio.Event,
    drain: Callable[[], Awaitable[None]],
    grace_s: float,
) -> None:
    """Run batch after batch until `stop` is set. Then call `drain`, and give the batches in hand `grace_s` to finish.

    `run_once`: processes one batch; None when drained. `drain`: after it, `run_once` waits for no new batch. A batch
    that is not finished in time, or raises Abandoned, is dropped unacknowledged, and the broker redelivers it. Raises
    anything else that `run_once` raises.
    """
    working, stopping = asyncio.create_task(_work(run_once)), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        await drain()
        await asyncio.wait({working}, timeout=grace_s)
    if working.done():
        working.result()
        return
    _tell_of_the_batch_in_hand(f"not done within {grace_s:g} s")
    await end([working])


async def _work(run_once: Callable[[], Awaitable[int | None]]) -> None:
    try:
        while await run_once() is not None:
            pass
    except Abandoned:
        _tell_of_the_batch_in_hand("cannot be done now")


def _tell_of_the_batch_in_hand(why: str) -> None:
    structlog.get_logger().warning("stopping with a batch in hand; it will be delivered again", why=why)


async def _crash_if_it_ends(coroutine: Coroutine[Any, Any, None], stop: asyncio.Event | None) -> None:
    try:
        await coroutine
        if stop is not None and stop.is_set():
            return
        error: BaseException | None = None
    except BaseException as raised:
        # A CancelledError may come from a library, which so ends whatever waits on a dead connection.
        if isinstance(raised, asyncio.CancelledError) and _is_cancelled():
            raise
        error = raised
    if error is not None or not _is_cancelled():
        _crash(getattr(coroutine, "__qualname__", repr(coroutine)), error)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _crash(part: str, error: BaseException | None) -> None:
    """End the process at once, whatever the log does."""
    is_bug, log = not isinstance(error, Misconfigured), structlog.get_logger()
    try:
        if not is_bug:  # a health page that cannot listen, say
            log.critical("cannot start", error=str(error))
        elif error is None:
            log.critical("bug: a part that has no end has ended; the process ends", part=part)
        else:
            log.critical("bug; the process ends", part=part, exc_info=error)
        logs.flush()
    finally:
        os._exit(_EXIT_BUG if is_bug else EXIT_BAD_SETTINGS)


def _on_signal(stop: asyncio.Event, number: signal.Signals) -> None:
    if stop.is_set():
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    stop.set()  # before the log line, which may fail
    structlog.get_logger().info("stopping", signal=number.name)
