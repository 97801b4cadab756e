"""Redis as something that may be away: a client with deadlines, and a breaker, so that an outage is waited for once."""

import time

import structlog
from redis.asyncio import BlockingConnectionPool, Redis

log = structlog.get_logger()

# While Redis does not answer, one caller in this time tries it, and all the others go on without.
PROBE_EVERY_S = 1.0
# A healthy Redis on the same network answers in less than a millisecond. This bounds what the first caller loses to
# one that hangs.
_TIMEOUT_S = 1.0


class Breaker:
    """Remembers whether Redis is away."""

    def __init__(self) -> None:
        self._is_away = False
        self._next_probe = 0.0

    @property
    def is_away(self) -> bool:
        return self._is_away

    def may_try(self) -> bool:
        """Whether to ask Redis now. While it is away: once in PROBE_EVERY_S."""
        if not self._is_away:
            return True
        now = time.monotonic()
        if now < self._next_probe:
            return False
        self._next_probe = now + PROBE_EVERY_S
        return True

    def failed(self, error: Exception) -> None:
        if not self._is_away:
            log.warning("redis is away; going on without", error=f"{type(error).__name__}: {error}")
        self._is_away = True
        self._next_probe = time.monotonic() + PROBE_EVERY_S

    def worked(self) -> None:
        if self._is_away:
            log.info("redis is back")
        self._is_away = False


def connect(redis_url: str) -> Redis:
    """A client with deadlines. Connects at first use; waits for a free connection rather than fail for want of one."""
    pool = BlockingConnectionPool.from_url(
        redis_url,
        max_connections=16,
        timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
    )
    return Redis.from_pool(pool)
