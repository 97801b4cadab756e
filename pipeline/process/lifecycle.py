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
from pipeline.process.settings import EXIT_BAD_SETTINGS, PipelineSettings, load_or_exit

S = TypeVar("S", bound=PipelineSettings)


class LetGo(Exception):
    """The process is to end, and what is in hand cannot be done now: it is left to the broker, for another."""


class Misconfigured(Exception):
    """What the settings name cannot be used: exit 78, like settings that are wrong. The text says what to do."""


# Longer than any of ours takes to end: a second cancellation would break off what the first has begun.
_CANCEL_AGAIN_S = 3.0

# EX_SOFTWARE: a bug of ours.
_EXIT_BUG = 70

# Of the cycle collector's youngest generation; CPython's default is 700 objects, which 128 orders in flight pass all
# the time. Nothing on an order's way makes cycles, so collecting found nothing, and walked all that is imported to find
# it: some 25 % of ingest_api's CPU (92, 89 → 61, 63 µs an order), and p99 62 → 24 ms (128 connections, interleaved).
# Five times as much gave no more. What waits here for its collection is a few MB.
_COLLECT_EVERY = 10_000


def run(service: str, settings_type: type[S], main: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    """Run `main(settings, stop)` to its end and exit 0. Does not return.

    `stop` is set by the first SIGTERM or SIGINT; main finishes what is in hand and returns. The second signal
    kills the process on the spot. Wrong settings, or Misconfigured: one line for each on stderr, exit 78.
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
    _spare_the_collector()
    log = structlog.get_logger()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, stop, number)
    log.info("starting", pid=os.getpid())
    await main(settings, stop)
    log.info("stopped")


def _spare_the_collector() -> None:
    """What is imported by now stays to the end: take it out of the collector's sight. Then let it come less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, *gc.get_threshold()[1:])


@asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None], stop: asyncio.Event | None = None) -> AsyncIterator[None]:
    """Run coroutines that have no end beside the body, and cancel them after it.

    One that ends before that, in whatever way, is a bug of ours, and takes the process down on the spot, with exit
    code 70: nothing that is in hand was acknowledged, and half a process that still says it is alive would be worse.
    `stop`: once it is set, they may return.
    """
    tasks = [asyncio.create_task(_crash_if_it_ends(coroutine, stop)) for coroutine in coroutines]
    try:
        yield
    finally:
        await end(tasks)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended. Raises nothing of theirs: what they raise instead of that is logged.

    Once may not do. Before Python 3.12 `asyncio.wait_for` forgets a cancellation that comes together with what it waits
    for (gh-86296 of CPython), and redis-py sends by it.
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
    """Take batch after batch until `stop` is set; then `drain`, and `grace_s` to finish what is in hand.

    `run_once`: takes one batch; None when there is no more. `drain`: after it, `run_once` waits for no new ones. What
    is not finished in time, or lets go, is dropped unacknowledged: the broker gives it to another. Raises what else
    `run_once` raises.
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


async def wait_to_retry(stop: asyncio.Event, seconds: float) -> None:
    """Wait before another attempt at what is in hand. Raises LetGo, at once, when `stop` is or gets set.

    Whoever is stopped should not be waiting for a database that may be away for hours, and need not: nothing that is
    in hand was acknowledged.
    """
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
    raise LetGo


async def _work(run_once: Callable[[], Awaitable[int | None]]) -> None:
    try:
        while await run_once() is not None:
            pass
    except LetGo:
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
        # A CancelledError may be a library's, which ends with it what waits on a dead connection.
        if isinstance(raised, asyncio.CancelledError) and _is_cancelled():
            raise
        error = raised
    if error is not None or not _is_cancelled():
        _crash(getattr(coroutine, "__qualname__", repr(coroutine)), error)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _crash(part: str, error: BaseException | None) -> None:
    """End the process on the spot, whatever the log does."""
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
    stop.set()  # first: whatever becomes of the log, the signal is obeyed
    structlog.get_logger().info("stopping", signal=number.name)
