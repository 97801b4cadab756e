"""Circuit breaker: while a server does not answer, one caller in a while tries it, and the others do not wait."""

import time

import structlog

from pipeline.process.error_text import describe

log = structlog.get_logger()

# While the server is away, one caller in this time tries it, and all others go on without.
PROBE_EVERY_S = 1.0
# How long a server must work before the log says that it is back: a flapping one is logged once.
_BACK_AFTER_S = 3.0


class Breaker:
    """Remembers whether a server is away. All users of a server share its breaker, so one state is logged once."""

    def __init__(self, server: str) -> None:
        """`server`: its name, for the log."""
        self._server = server
        self._is_away = self._refuses_writes = self._is_told = False
        self._next_probe = self._works_since = 0.0
        self.is_watched = False
        """Whether a background task probes the server. If so, no caller tries it while it is away."""

    @property
    def is_away(self) -> bool:
        return self._is_away

    def may_try(self) -> bool:
        """Whether to use the server now. While it is away: once in PROBE_EVERY_S, or never if it is watched."""
        if not self._is_away:
            return True
        now = time.monotonic()
        if self.is_watched or now < self._next_probe:
            return False
        self._next_probe = now + PROBE_EVERY_S
        return True

    def failed(self, error: BaseException, *, refuses_writes: bool = False) -> None:
        """Record a failure. `refuses_writes`: reads may still work, so only a write can show that it is back."""
        if not self._is_told:
            log.warning(f"{self._server} is away; going on without", error=describe(error))
        self._is_away = self._is_told = True
        self._refuses_writes = self._refuses_writes or refuses_writes
        self._works_since = 0.0
        self._next_probe = time.monotonic() + PROBE_EVERY_S

    def worked(self, *, wrote: bool = False) -> None:
        """Record a success. `wrote`: the server took a write."""
        if not self._is_told:
            return
        if self._refuses_writes and not wrote:
            self._next_probe = 0.0  # leave the next try to a write
            return
        self._is_away = self._refuses_writes = False
        now = time.monotonic()
        self._works_since = self._works_since or now
        if now - self._works_since >= _BACK_AFTER_S:
            self._is_told = False
            log.info(f"{self._server} is back")
