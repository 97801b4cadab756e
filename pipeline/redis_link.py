"""Redis as something that may be away: a client with deadlines, and a breaker, so that an outage is waited for once."""

from redis.asyncio import BlockingConnectionPool, Redis

from pipeline.breaker import Breaker

# A healthy Redis on the same network answers in less than a millisecond. This bounds what the first caller loses to
# one that hangs.
_TIMEOUT_S = 1.0


def redis_breaker() -> Breaker:
    return Breaker("redis")


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
