"""Something that may be away, and is waited for once: while it does not answer, one caller in a while tries it."""

import time

import structlog

log = structlog.get_logger()

# While it does not answer, one caller in this time tries it, and all the others go on without.
PROBE_EVERY_S = 1.0


class Breaker:
    """Remembers whether a server is away."""

    def __init__(self, server: str) -> None:
        """`server`: its name, for the log."""
        self._server = server
        self._is_away = False
        self._next_probe = 0.0

    @property
    def is_away(self) -> bool:
        return self._is_away

    def may_try(self) -> bool:
        """Whether to ask the server now. While it is away: once in PROBE_EVERY_S."""
        if not self._is_away:
            return True
        now = time.monotonic()
        if now < self._next_probe:
            return False
        self._next_probe = now + PROBE_EVERY_S
        return True

    def failed(self, error: Exception) -> None:
        if not self._is_away:
            log.warning(f"{self._server} is away; going on without", error=f"{type(error).__name__}: {error}")
        self._is_away = True
        self._next_probe = time.monotonic() + PROBE_EVERY_S

    def worked(self) -> None:
        if self._is_away:
            log.info(f"{self._server} is back")
        self._is_away = False
