"""Steps the wall clock of one process, on SIGUSR2, by HEADRACE_CLOCK_STEP_S seconds.

The event loop's monotonic clock stays. Only the functions named here step: those of `time`, and `datetime` where a
service reads the time.
"""

import signal
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo

from tests.chaos.faults.failpoints import Patch

VARIABLE = "HEADRACE_CLOCK_STEP_S"
SIGNAL = signal.SIGUSR2


class Clock:
    """A wall clock that can step."""

    def __init__(self) -> None:
        self.step_s = 0.0
        self._time, self._time_ns = time.time, time.time_ns

    def time(self) -> float:
        return self._time() + self.step_s

    def time_ns(self) -> int:
        return self._time_ns() + int(self.step_s * 1_000_000_000)

    def now(self, zone: tzinfo | None = None) -> datetime:
        return datetime.now(zone) + timedelta(seconds=self.step_s)


def arm(environment: Mapping[str, str], patch: Patch) -> None:
    """Step this process's clock when it gets the signal. Does nothing if the variable is not set."""
    if not (text := environment.get(VARIABLE)):
        return
    clock, step_s = Clock(), float(text)
    ask(clock, patch)

    def step(*_: object) -> None:
        clock.step_s += step_s
        print(f"the clock steps by {step_s:g} s", file=sys.stderr, flush=True)

    signal.signal(SIGNAL, step)


def ask(clock: Clock, patch: Patch) -> None:
    """Replace the system's clock by `clock` wherever ingest_api reads it."""
    from ingest_api import requests
    from pipeline.process import metrics

    class Stepping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # msgspec wants the real class
            return clock.now(tz)

    patch(time, "time", clock.time)
    patch(time, "time_ns", clock.time_ns)
    patch(requests, "datetime", Stepping)
    patch(metrics, "datetime", Stepping)
