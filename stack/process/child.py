"""One child process: started in its own session, ready only when its probe says so, restarted, stopped in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stack.errors import HeadraceError
from stack.process.identity import Identity, wrap
from stack.process.logfile import open_log

State = Literal["starting", "ready", "restarting", "stopping", "stopped", "external"]

# A process that dies is started again after 0.5 s, so a single crash is hardly noticed. The back-off doubles for a
# process that fails by itself before it is ready, so a crash loop costs little.
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
# A process that was ready, or was killed, works; what ended it may be over. Its back-off ends here.
BACKOFF_MAX_WORKING_S = 4.0
# A process that served for this long starts with the first delay again.
SERVED_S = 1.0
PROBE_INTERVAL_S = 0.05
# How often to look for a process that answers but does no work, and after how long to restart it.
FAULT_LOOK_EVERY_S = 2.0
FAULT_PATIENCE_S = 10.0
PROBE_TIMEOUT_S = 5.0
# A process that never got ready holds no work, so it gets little time. (RabbitMQ ignores SIGTERM while it boots.)
UNREADY_GRACE_S = 2.0

log = logging.getLogger(__name__)


async def _nothing() -> None:
    """The default `before`: nothing to do."""


@dataclass(frozen=True)
class Spec:
    """How to run one process. `probe` returns once the process serves, and raises any exception before.
    `before` runs before each start, and raises HeadraceError if the process cannot be started now. `stop_signal` asks
    for a graceful stop within `stop_grace_s`. The kernel sends `death_signal` when the supervisor dies.
    """

    name: str
    argv: list[str]
    log: Path
    probe: Callable[[], Awaitable[None]]
    env: dict[str, str]
    before: Callable[[], Awaitable[None]] = _nothing
    cwd: Path = Path("/")
    identity: Identity | None = None
    start_timeout_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 30.0
    death_signal: signal.Signals = signal.SIGTERM
    fault: Callable[[], Awaitable[str | None]] | None = None
    """Why the process does no work although it answers, if only a restart helps; None: no such fault. Never raises."""


async def together(starts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. If one fails, the others are cancelled, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for start in starts:
                group.create_task(start)
    except BaseExceptionGroup as errors:
        # Not `except*`: what is raised in there arrives in a new group, depending on the version of Python.
        raise errors.exceptions[0] from None


def back_off(last_s: float, served_s: float | None, *, was_killed: bool) -> float:
    """Seconds until the next start. `last_s`: the delay before the last start, 0 for the first.

    `served_s`: how long the process was ready; None: never. `was_killed`: it ended by SIGKILL, so from outside.
    """
    if served_s is not None and served_s >= SERVED_S:
        return BACKOFF_FIRST_S
    longest_s = BACKOFF_MAX_WORKING_S if was_killed or served_s is not None else BACKOFF_MAX_S
    return min(max(BACKOFF_FIRST_S, 2 * last_s), longest_s)


# ── I/O below


@dataclass
class Process:
    spec: Spec
    on_change: Callable[[], None] = lambda: None
    state: State = "stopped"
    restarts: int = 0
    exit_code: int | None = None
    _child: asyncio.subprocess.Process | None = None
    _ready_at: float | None = None
    _keeping: asyncio.Task[None] | None = field(default=None, repr=False)
    _watching: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child and self._child.returncode is None else None

    async def start(self) -> None:
        """Start the process, wait until it is ready, then keep it alive. Raises HeadraceError if it fails."""
        await self._launch()
        self._keeping = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")
        if self.spec.fault is not None:
            self._watching = asyncio.create_task(self._watch(self.spec.fault), name=f"watch {self.spec.name}")

    async def stop(self) -> None:
        """Stop the process: its stop signal, its grace period, then SIGKILL to its session. Keeps the exit code."""
        for task in (self._watching, self._keeping):
            if task:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled() and (error := task.exception()):
                    # A bug of ours. Stop the process all the same.
                    log.error("%s was not looked after to the end", self.spec.name, exc_info=error)
        if self.pid:
            self._become("stopping")
            await self._end()
        self._become("stopped")

    async def _launch(self) -> None:
        self._become("starting")
        self._ready_at = None
        await self.spec.before()
        self._child = await self._spawn()
        self._become("starting")  # again, now with a pid
        try:
            await self._until_ready(self._child)
        except BaseException:
            await asyncio.shield(self._end())
            raise
        self._ready_at = time.monotonic()
        self._become("ready")

    async def _spawn(self) -> asyncio.subprocess.Process:
        with open_log(self.spec.log) as output:
            return await asyncio.create_subprocess_exec(
                *wrap(self.spec.argv, self.spec.identity, self.spec.death_signal),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.spec.env,
                cwd=self.spec.cwd,
                start_new_session=True,  # so that the supervisor handles a terminal's Ctrl-C, in the right order
            )

    async def _until_ready(self, child: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + self.spec.start_timeout_s
        while True:
            if child.returncode is not None:
                raise self._failed(f"it ended with exit code {child.returncode}")
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    return await self.spec.probe()
            except Exception as error:
                if time.monotonic() > deadline:
                    cause = f"not ready after {self.spec.start_timeout_s:.0f} s: {error or type(error).__name__}"
                    raise self._failed(cause) from error
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it loses a cancellation that coincides with its future's end.
                async with asyncio.timeout(PROBE_INTERVAL_S):
                    await child.wait()

    def _failed(self, cause: str) -> HeadraceError:
        return HeadraceError(
            f"{self.spec.name} did not start",
            cause,
            "read the log, then: ./headrace doctor",
            str(self.spec.log),
        )

    async def _keep(self) -> None:
        delay_s = 0.0
        while self._child:
            self.exit_code = await self._child.wait()
            served_s = None if self._ready_at is None else time.monotonic() - self._ready_at
            delay_s = back_off(delay_s, served_s, was_killed=self.exit_code == -signal.SIGKILL)
            log.warning("%s ended with exit code %s: again in %.1f s", self.spec.name, self.exit_code, delay_s)
            self._become("restarting")
            await asyncio.sleep(delay_s)
            self.restarts += 1
            await self._relaunch()

    async def _relaunch(self) -> None:
        try:
            await self._launch()
        except (HeadraceError, OSError) as error:
            log.warning("%s: %s", self.spec.name, getattr(error, "cause", error))
        except Exception:  # a bug of ours, but nothing else would start the process again
            log.exception("%s was not started again", self.spec.name)
        else:
            log.info("%s is ready again, pid %s", self.spec.name, self.pid)

    async def _watch(self, fault: Callable[[], Awaitable[str | None]]) -> None:
        """Kill the process once its fault has lasted for FAULT_PATIENCE_S. `_keep` starts it again."""
        since: float | None = None
        while True:
            await asyncio.sleep(FAULT_LOOK_EVERY_S)
            why = await self._fault(fault) if self.state == "ready" else None
            if why is None:
                since = None
                continue
            since = since or time.monotonic()
            if (lasts_s := time.monotonic() - since) >= FAULT_PATIENCE_S and self.pid is not None:
                log.error("%s: %s, for %.0f s: killed, to be started again", self.spec.name, why, lasts_s)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                since = None

    async def _fault(self, fault: Callable[[], Awaitable[str | None]]) -> str | None:
        try:
            return await fault()
        except Exception:  # a bug of ours; try again at the next look
            log.exception("%s was not looked at", self.spec.name)
            return None

    async def _end(self) -> None:
        child = self._child
        if child is None or child.returncode is not None:
            return
        grace_s = self.spec.stop_grace_s if self._ready_at is not None else min(UNREADY_GRACE_S, self.spec.stop_grace_s)
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(self.spec.stop_signal)
        try:
            async with asyncio.timeout(grace_s):
                await child.wait()
        except TimeoutError:
            log.warning("%s did not stop within %.0f s: killed", self.spec.name, grace_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
        self.exit_code = child.returncode
        log.info("%s stopped with exit code %s", self.spec.name, self.exit_code)

    def _become(self, state: State) -> None:
        self.state = state
        self.on_change()
