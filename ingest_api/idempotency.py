"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): one order for each key, and the same answer again.

Two mechanisms, of which only the first carries the promise (P5):

    the id       derived from (client, key), so every retry is the same order, and the primary key sees to the rest
    the replay   Redis remembers the first answer for a day, and which keys are in flight

With Redis gone, emptied or restarted, a retry is published again, answered 202 with the same id, and stored once.

All keyed requests that wait at the same time share one round trip: while one call to Redis is in flight, what arrives
collects; when it returns, all of that is the next call. A request without a key comes nowhere near.
"""

import asyncio
import re
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.types import Scope

from pipeline import metrics
from pipeline.redis_link import Breaker
from web.problems import Problem, malformed

# 1 to 255 visible ASCII characters, bare or as the string of RFC 8941 that the draft asks for.
_KEY = re.compile(rb'"([\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x7e][\x21-\x7e]{0,254})')
FINGERPRINT_BYTES = 16
# What a keyed request waits for Redis at the most: a call that was under way when it came, and its own.
_MAX_WAIT_S = 1.0

# KEYS: those to settle, then those to begin. ARGV: how many to settle, the two times to live in ms, then a value for
# each key. An empty value to settle is a key to free. Returns what stood at each key to begin, "" for nothing. A "?"
# behind the same fingerprint is as good as nothing. pcall: what is no string is nobody's answer, and is written over.
_EXCHANGE = """
local settled = tonumber(ARGV[1])
for i = 1, settled do
  if ARGV[i + 3] == '' then redis.call('DEL', KEYS[i])
  else redis.call('SET', KEYS[i], ARGV[i + 3], 'PX', ARGV[2]) end
end
local found = {}
for i = settled + 1, #KEYS do
  local held = redis.pcall('GET', KEYS[i])
  if type(held) ~= 'string' or held == ARGV[i + 3] .. '?' then held = false end
  if not held then redis.call('SET', KEYS[i], ARGV[i + 3], 'PX', ARGV[3]) end
  found[i - settled] = held or ''
end
return found
"""


class Begun(Enum):
    """How a keyed request begins, when there is no answer to replay."""

    FIRST = "first"
    """Nobody has used the key, or nobody remembers."""
    IN_FLIGHT = "in_flight"
    REUSED = "reused"
    """The key came with another order."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer that the first request got."""

    status: int
    body: bytes


def idempotency_key(scope: Scope) -> str | None:
    """The request's key, or None. Raises Problem (400) for one that is malformed, or more than one."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            if found is not None:
                raise malformed("There is more than one Idempotency-Key. Send one.")
            found = value
    return None if found is None else _parse(found)


def _parse(value: bytes) -> str:
    match = _KEY.fullmatch(value)
    if match is None:
        raise malformed("Idempotency-Key must be 1 to 255 visible ASCII characters, best a UUIDv7.")
    return (match[1] or match[2]).decode()


def fingerprint_of(product_id: str, quantity: int) -> bytes:
    """What makes two requests with one key the same request: what they order, not how they write it."""
    return blake2b(f"{product_id} {quantity}".encode(), digest_size=FINGERPRINT_BYTES).digest()


def judge(held: bytes, fingerprint: bytes) -> Begun | Replay:
    """What the value at a key says to a request: nothing, a fingerprint alone, or one with an answer behind it."""
    if not held:
        return Begun.FIRST
    if held[:FINGERPRINT_BYTES] != fingerprint:
        return Begun.REUSED
    if len(held) == FINGERPRINT_BYTES:
        return Begun.IN_FLIGHT
    status, body = held[FINGERPRINT_BYTES:][:3], held[FINGERPRINT_BYTES + 3 :]
    return Replay(int(status), body) if status.isdigit() else Begun.FIRST


def may_be_accepted(error: BaseException) -> bool:
    """Whether a request that ended with `error` may have left an order behind."""
    return not isinstance(error, Problem) or error.name == "outcome-unknown"


# ── I/O below


class Replays:
    """What Redis remembers of keyed requests. Never raises: without Redis, everybody is the first."""

    def __init__(self, redis: Redis, *, remember_s: float, in_flight_s: float, max_waiting: int) -> None:
        """`in_flight_s`: after how long a key whose request died is free again. `max_waiting`: entries held for the
        next call; past it, requests go on as if Redis were away.
        """
        self._redis = redis
        self._remember_ms, self._in_flight_ms = round(remember_s * 1000), round(in_flight_s * 1000)
        self._max_waiting = max_waiting
        self._breaker = Breaker()
        self._to_begin: list[tuple[str, bytes, asyncio.Future[bytes]]] = []
        self._to_settle: list[tuple[str, bytes]] = []
        self._arrived = asyncio.Event()
        self._calling = asyncio.Lock()

    async def begin(self, order_id: str, fingerprint: bytes) -> Begun | Replay:
        """Take the key for this request, or learn who has it. Who is FIRST must `remember`, `free` or `give_up`."""
        if len(self._to_begin) >= self._max_waiting or not self._breaker.may_try():
            metrics.IDEMPOTENT_REQUESTS.labels("unremembered").inc()
            return Begun.FIRST
        found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._to_begin.append((order_id, fingerprint, found))
        self._arrived.set()
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                begun = judge(await found, fingerprint)
        except TimeoutError:
            metrics.IDEMPOTENT_REQUESTS.labels("unremembered").inc()
            return Begun.FIRST
        metrics.IDEMPOTENT_REQUESTS.labels("replayed" if isinstance(begun, Replay) else begun.value).inc()
        return begun

    def remember(self, order_id: str, fingerprint: bytes, status: int, body: bytes) -> None:
        """Keep the answer for who asks again. The caller need not wait: until it is kept, they hear "in flight"."""
        self._settle(order_id, b"%b%d%b" % (fingerprint, status, body))

    def free(self, order_id: str) -> None:
        """The request was refused: who asks again is the first again, whatever they order."""
        self._settle(order_id, b"")

    def give_up(self, order_id: str, fingerprint: bytes, error: BaseException) -> None:
        """There is no answer to keep: who asks again is the first again. If an order may have been left behind, only
        with the same order: another one under its id would be accepted, and parked.
        """
        self._settle(order_id, fingerprint + b"?" if may_be_accepted(error) else b"")

    async def run(self) -> None:
        """One call to Redis after another, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._exchange()

    async def drain(self) -> None:
        """Settle what is left, and wait until it is."""
        await self._exchange()

    def _settle(self, order_id: str, value: bytes) -> None:
        # While Redis is away nothing is kept, so that what waits for it is never more than one call's time brings.
        if len(self._to_settle) < self._max_waiting and not self._breaker.is_away:
            self._to_settle.append((order_id, value))
            self._arrived.set()

    async def _exchange(self) -> None:
        async with self._calling:
            await self._exchange_all()

    async def _exchange_all(self) -> None:
        beginning = [it for it in self._to_begin if not it[2].done()]  # done: cancelled, or went on without
        settling, self._to_settle, self._to_begin = self._to_settle, [], []
        if not beginning and not settling:
            return
        keys = [_key(order_id) for order_id, _ in settling] + [_key(order_id) for order_id, _, _ in beginning]
        values = [value for _, value in settling] + [value for _, value, _ in beginning]
        found = await self._call(len(settling), keys, values)
        if found is None:  # nor do those who came meanwhile wait for a Redis that hangs
            beginning += self._to_begin
            self._to_begin, self._to_settle = [], []
            found = [b""] * len(beginning)
        for (_, _, waiter), held in zip(beginning, found, strict=True):
            if not waiter.done():  # its request was cancelled
                waiter.set_result(held)

    async def _call(self, settled: int, keys: list[str], values: list[bytes]) -> list[bytes] | None:
        try:
            found: list[bytes] = await self._redis.eval(
                _EXCHANGE, len(keys), *keys, settled, self._remember_ms, self._in_flight_ms, *values
            )
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            return None
        self._breaker.worked()
        return found


def _key(order_id: str) -> str:
    return f"idempotency:{order_id}"
