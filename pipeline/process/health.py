"""Health of a process: the state of each part that it needs. `web.serving.health` serves it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from pipeline.process import metrics

log = structlog.get_logger()

# A batch takes a tenth of a second, and another batch's lock about as long. A longer wait than this has a cause that an
# operator should know, although it may still end well.
LONG_WAIT_S = 5.0


class Health:
    """Tracks which of the parts that a process needs are up.

    A required part that is down makes the process not ready; an optional one is only reported.
    """

    def __init__(self, service: str, *required: str, optional: tuple[str, ...] = ()) -> None:
        self.service = service
        self._required = required
        self._problems = dict.fromkeys((*required, *optional), "not connected yet")
        self._started_at = time.monotonic()
        for part in self._problems:
            metrics.PART_UP.labels(service, part).set(0)

    def up(self, part: str) -> None:
        if self._problems.get(part) != "":
            metrics.PART_UP.labels(self.service, part).set(1)
        self._problems[part] = ""

    def down(self, part: str, why: str) -> None:
        """Mark a part as down. `why`: what is wrong, for an operator; /health shows it."""
        metrics.PART_UP.labels(self.service, part).set(0)
        self._problems[part] = why or "unknown"

    @contextmanager
    def waiting(self, part: str, what: str) -> Iterator[None]:
        """Within the block, `part` waits for `what`. If that takes long, log it once, and take `part` down meanwhile.

        Costs 2 µs if it does not.
        """
        told: list[float] = []
        began = time.monotonic()

        def tell() -> None:
            told.append(began)
            metrics.LONG_WAITS.labels(self.service, part).set(1)
            log.warning("waiting for long", part=part, what=what, waited_s=LONG_WAIT_S)
            self.down(part, f"waits for {what}, for more than {LONG_WAIT_S:g} s")

        timer = asyncio.get_running_loop().call_later(LONG_WAIT_S, tell)
        try:
            yield
        finally:
            timer.cancel()
            if told:
                metrics.LONG_WAITS.labels(self.service, part).set(0)
                log.info("waiting is over", part=part, what=what, waited_s=round(time.monotonic() - began, 1))
                self.up(part)  # the caller reports the outcome

    def is_up(self, part: str) -> bool:
        return not self._problems[part]

    @property
    def is_ready(self) -> bool:
        return all(self.is_up(part) for part in self._required)

    @property
    def status(self) -> str:
        return "ready" if self.is_ready else "not ready"

    def summary(self) -> dict[str, object]:
        return {
            "service": self.service,
            "status": self.status,
            "parts": {part: problem or "ok" for part, problem in self._problems.items()},
            "uptime_s": round(time.monotonic() - self._started_at, 1),
        }
