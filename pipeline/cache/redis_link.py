"""Connects to Redis: a client with deadlines, and a circuit breaker, so that only one caller waits for an outage.

A Redis that answers may still be unusable: it was demoted to a replica, its disk or its memory is full, its password
has changed. redis-py keeps the connection to such a server. Here an answer of that kind drops all connections, so the
next ones go to the server that the address names by then.
"""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from pipeline.process import metrics
from pipeline.process.breaker import Breaker
from pipeline.process.error_text import describe as plainly

# A healthy Redis on the same network answers in less than a millisecond. This bounds what a hung one costs the first
# caller.
_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a Redis that answers cannot do the work."""

    name: str
    """The metrics' label."""
    words: str
    """For a person."""


_READ_ONLY = Refusal("read_only", "it is a replica, and takes no writes")
_LOGIN = Refusal("login_refused", "it does not take the user or the password of REDIS_URL")
_NO_RIGHT = Refusal("no_right", "the user of REDIS_URL lacks a right: ACL LOG says which")
_LOADING = Refusal("loading", "it is loading its data")
_CUT_OFF = Refusal("cut_off", "it is a replica that has lost its primary")
_FULL = Refusal("out_of_memory", "its memory is full, and its policy evicts nothing")
_CANNOT_SAVE = Refusal("cannot_save", "it cannot save to its disk, and takes no writes before it can")
_ALONE = Refusal("no_replicas", "it has too few replicas, and takes no writes (min-replicas-to-write)")
_CLUSTER = Refusal("cluster", "it is a node of a Redis Cluster; Headrace needs a Redis of its own")
_BUSY = Refusal("busy", "a script runs in it for too long")

_BY_TYPE: dict[type[Exception], Refusal] = {
    ReadOnlyError: _READ_ONLY,
    AuthenticationError: _LOGIN,
    NoPermissionError: _NO_RIGHT,
    BusyLoadingError: _LOADING,
    MasterDownError: _CUT_OFF,
    OutOfMemoryError: _FULL,
    ClusterDownError: _CLUSTER,
    MovedError: _CLUSTER,
}
# By the first word of an error that redis-py has no type for, also where an older server quotes it from a script.
_BY_WORD = {
    "READONLY": _READ_ONLY,
    "OOM": _FULL,
    "MISCONF": _CANNOT_SAVE,
    "NOREPLICAS": _ALONE,
    "MASTERDOWN": _CUT_OFF,
    "NOPERM": _NO_RIGHT,
    "NOAUTH": _LOGIN,
    "WRONGPASS": _LOGIN,
    "BUSY": _BUSY,
}
# Redis 7.0 gives this error no word.
_NO_RIGHT_IN_A_SCRIPT = "The user executing the script can't "


def refusal_of(error: BaseException) -> Refusal | None:
    """Why Redis cannot do the work, if the error says so; otherwise None."""
    for type_, refusal in _BY_TYPE.items():
        if isinstance(error, type_):
            return refusal
    if isinstance(error, ResponseError):
        text = str(error)
        if _NO_RIGHT_IN_A_SCRIPT in text:
            return _NO_RIGHT
        for word, refusal in _BY_WORD.items():
            if text.startswith(f"{word} ") or f"-{word} " in text:
                return refusal
    return None


def describe(error: BaseException) -> str:
    """The error in one line, with what it means."""
    refusal = refusal_of(error)
    return f"{plainly(error)} ({refusal.words})" if refusal else plainly(error)


def _cause(error: BaseException) -> str:
    """The metrics' label of an error."""
    if (refusal := refusal_of(error)) is not None:
        return refusal.name
    if isinstance(error, (RedisTimeoutError, TimeoutError)):
        return "no_answer"
    return "other" if isinstance(error, ResponseError) else "unreachable"


# ── I/O below


class RedisBreaker(Breaker):
    """The breaker of one Redis, shared by all its users in the process."""

    def __init__(self) -> None:
        super().__init__("redis")

    def failed(self, error: BaseException, *, refuses_writes: bool = False) -> None:
        super().failed(error, refuses_writes=refuses_writes or refusal_of(error) is not None)


class _Client(Redis):
    """A client that drops its connections when the server says that it cannot do the work."""

    breaker: Breaker

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            metrics.SERVER_FAULTS.labels("redis", _cause(error)).inc()
            if refusal_of(error) is not None:
                await self.connection_pool.disconnect(inuse_connections=False)
            raise


def connect(redis_url: str) -> Redis:
    """Make a client with deadlines. It connects on first use, and waits for a free connection instead of failing."""
    pool = BlockingConnectionPool.from_url(
        redis_url,
        max_connections=16,
        timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        # On each new connection, redis-py sends its version and asks for maintenance notices. We need neither command,
        # so without them no Redis user of ours needs the right to them.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    client = _Client.from_pool(pool)
    assert isinstance(client, _Client)
    client.breaker = RedisBreaker()
    return client


def redis_breaker(redis: Redis) -> Breaker:
    """The client's breaker, which all users of the client share."""
    return getattr(redis, "breaker", None) or RedisBreaker()
