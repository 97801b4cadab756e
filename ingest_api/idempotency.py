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

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.types import Scope

from pipeline import metrics
from pipeline.redis_link import redis_breaker
from web.problems import Problem, malformed

# 1 to 255 visible ASCII characters, bare or as the string of RFC 8941 that the draft asks for.
_KEY = re.compile(rb'"([\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x7e][\x21-\x7e]{0,254})')
FINGERPRINT_BYTES = 16
# Of one call to Redis. A keyed request waits for two at the most: one that was under way when it came, and its own. A
# deadline for each request would cost 9 µs an order (measured), which is a tenth of all that ingest_api does.
_CALL_TIMEOUT_S = 0.5

# One argument: a MessagePack of [key, value, …] to settle and to begin, and their times to live in ms. redis-py packs
# arguments one by one in Python: 4 keys and values an order took 4 to 5 µs, this takes 1.8 (64 orders a call).
# An empty value to settle is a key to free. Returns [place, held, …] of those keys to begin that are taken; a "?"
# behind the same fingerprint is as good as free. pcall: what is no string is nobody's answer, and is written over.
_EXCHANGE = """
local settled, begun, remember_ms, in_flight_ms = unpack(cmsgpack.unpack(ARGV[1]))
for i = 1, #settled, 2 do
  if settled[i + 1] == '' then redis.call('DEL', settled[i])
  else redis.call('SET', settled[i], settled[i + 1], 'PX', remember_ms) end
end
local taken = {}
for i = 1, #begun, 2 do
  local key, mark = begun[i], begun[i + 1]
  if not redis.call('SET', key, mark, 'PX', in_flight_ms, 'NX') then
    local held = redis.pcall('GET', key)
    if type(held) ~= 'string' or held == mark .. '?' then redis.call('SET', key, mark, 'PX', in_flight_ms)
    else taken[#taken + 1], taken[#taken + 2] = (i - 1) / 2, held end
  end
end
return taken
"""

_encode = msgspec.msgpack.Encoder().encode
# Bound once: `labels` would cost each order 0.5 µs.
_RESULTS = {
    name: metrics.IDEMPOTENT_REQUESTS.labels(name)
    for name in ("first", "in_flight", "reused", "replayed", "unremembered")
}


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
    """What the value at a key says to a request: nothing, a fingerprint (in hex) alone, or an answer behind it."""
    if not held:
        return Begun.FIRST
    mark = fingerprint.hex().encode()
    if not held.startswith(mark):
        return Begun.REUSED
    if len(held) == len(mark):
        return Begun.IN_FLIGHT
    status, body = held[len(mark) :][:3], held[len(mark) + 3 :]
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
        self._breaker = redis_breaker()
        self._to_begin: list[tuple[str, bytes, asyncio.Future[bytes]]] = []
        self._to_settle: list[str] = []  # key, value, key, value, …
        self._arrived = asyncio.Event()
        self._calling = asyncio.Lock()

    async def begin(self, order_id: str, fingerprint: bytes) -> Begun | Replay:
        """Take the key for this request, or learn who has it. Who is FIRST must `remember`, `free` or `give_up`."""
        if len(self._to_begin) >= self._max_waiting or not self._breaker.may_try():
            _RESULTS["unremembered"].inc()
            return Begun.FIRST
        found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._to_begin.append((order_id, fingerprint, found))
        self._arrived.set()
        begun = judge(await found, fingerprint)
        _RESULTS["replayed" if isinstance(begun, Replay) else begun.value].inc()
        return begun

    def remember(self, order_id: str, fingerprint: bytes, status: int, body: bytes) -> None:
        """Keep the answer for who asks again. The caller need not wait: until it is kept, they hear "in flight"."""
        self._settle(order_id, f"{fingerprint.hex()}{status}{body.decode()}")

    def free(self, order_id: str) -> None:
        """The request was refused: who asks again is the first again, whatever they order."""
        self._settle(order_id, "")

    def give_up(self, order_id: str, fingerprint: bytes, error: BaseException) -> None:
        """There is no answer to keep: who asks again is the first again. If an order may have been left behind, only
        with the same order: another one under its id would be accepted, and parked.
        """
        self._settle(order_id, f"{fingerprint.hex()}?" if may_be_accepted(error) else "")

    async def run(self) -> None:
        """One call to Redis after another, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._exchange()

    async def drain(self) -> None:
        """Settle what is left, and wait until it is."""
        await self._exchange()

    def _settle(self, order_id: str, value: str) -> None:
        # While Redis is away nothing is kept, so that what waits for it is never more than one call's time brings.
        if len(self._to_settle) < 2 * self._max_waiting and not self._breaker.is_away:
            self._to_settle += (_key(order_id), value)
            self._arrived.set()

    async def _exchange(self) -> None:
        async with self._calling:
            await self._exchange_all()

    async def _exchange_all(self) -> None:
        beginning = [it for it in self._to_begin if not it[2].done()]  # done: its request was cancelled
        settling, self._to_settle, self._to_begin = self._to_settle, [], []
        if not beginning and not settling:
            return
        begun = [text for order_id, fingerprint, _ in beginning for text in (_key(order_id), fingerprint.hex())]
        taken = await self._call(settling, begun)
        if taken is None:  # nor do those who came meanwhile wait for a Redis that hangs
            beginning += self._to_begin
            self._to_begin, self._to_settle, taken = [], [], {}
        for place, (_, _, waiter) in enumerate(beginning):
            if not waiter.done():
                waiter.set_result(taken.get(place, b""))

    async def _call(self, settling: list[str], begun: list[str]) -> dict[int, bytes] | None:
        """What stands at those of the keys to begin that are taken, by their place. None: Redis is away."""
        request = _encode((settling, begun, self._remember_ms, self._in_flight_ms))
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                found = await self._redis.eval(_EXCHANGE, 0, request)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            self._breaker.failed(error)
            return None
        self._breaker.worked()
        return dict(zip(found[::2], found[1::2], strict=True))


def _key(order_id: str) -> str:
    return f"replay:{order_id}"
