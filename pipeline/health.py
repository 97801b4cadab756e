"""What a process knows of the parts that it needs. `web.health` shows it."""

import time


class Health:
    """The parts that a process needs to do its work, and whether each of them is there.

    A part that is named as required holds readiness back; the others are only told.
    """

    def __init__(self, service: str, *required: str, optional: tuple[str, ...] = ()) -> None:
        self.service = service
        self._required = required
        self._problems = dict.fromkeys((*required, *optional), "not connected yet")
        self._started_at = time.monotonic()

    def up(self, part: str) -> None:
        self._problems[part] = ""

    def down(self, part: str, why: str) -> None:
        """`why`: what is wrong, for an operator: /health shows it, and the log."""
        self._problems[part] = why or "unknown"

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
