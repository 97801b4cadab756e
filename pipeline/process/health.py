"""What a process knows of the parts that it needs. `web.serving.health` shows it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from pipeline.process import metrics

log = structlog.get_logger()

# A batch takes a tenth of a second, a lock that a neighbour holds about as long. What takes longer than this has a
# cause that somebody should hear of, although it may still end well.
LONG_WAIT_S = 5.0


class Health:
    """The parts that a process needs to do its work, and whether each of them is there.

    A part that is named as required holds readiness back; the others are only told.
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
        """`why`: what is wrong, for an operator: /health shows it, and the log."""
        metrics.PART_UP.labels(self.service, part).set(0)
        self._problems[part] = why or "unknown"

    @contextmanager
    def waiting(self, part: str, what: str) -> Iterator[None]:
        """Within the block, `part` waits for `what`. If that takes long it is told, once, and `part` is down meanwhile.

        Costs 2 µs where it does not.
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
                self.up(part)  # what it came to is told by the caller

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
