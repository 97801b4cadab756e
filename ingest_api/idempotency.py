"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): one order for each key, and the same answer again.

Two mechanisms, of which only the first carries the promise (P5):

    the id       derived from (client, key, what is ordered), so every retry is the same order, and the primary key
                 sees to the rest
    the replay   Redis remembers the first answer for a day, and which keys are in flight

With Redis gone, emptied or restarted, a retry is published again, answered 202 with the same id, and stored once. A
client that then sends another order with the key, which is no retry, gets that order too: were the id derived from the
key alone, it would get a 202 for an order that the primary key keeps out.

All keyed requests that wait at the same time share one round trip: while one call to Redis is in flight, what arrives
collects; when it returns, all of that is the next call. A request without a key comes nowhere near.
"""

import asyncio
import re
import secrets
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b
from itertools import count

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

# One argument: a MessagePack. redis-py packs arguments one by one in Python: 4 keys and values an order
# took 4 to 5 µs, this takes 1.8 (64 orders a call).
#
# What stands at a key begins with the fingerprint of its order, its mark. Behind it is
#   `.` or `!` and an owner   that request is in flight; `!`: a request before it may have left an order behind
#   `?`                       none is in flight, and one may have left an order behind
#   a status and a body       the answer
# So whoever settles late, after another has taken the key, changes nothing of theirs; and a doubt is not forgotten by a
# request that began in it and was refused. Returns [place, held, …] of those keys to begin at which something stood.
# pcall: what is no string is nobody's answer, and is written over.
_EXCHANGE = """
local settled, begun, remember_ms, in_flight_ms = unpack(cmsgpack.unpack(ARGV[1]))
local function put(key, value, ms) redis.call('SET', key, value, 'PX', ms) end
for i = 1, #settled, 4 do
  local key, mark, owner, value = settled[i], settled[i + 1], settled[i + 2], settled[i + 3]
  local held = redis.pcall('GET', key)
  local nothing, in_doubt = type(held) ~= 'string', held == mark .. '!' .. owner
  local ours = in_doubt or held == mark .. '.' .. owner
  if value == '' then
    if in_doubt then put(key, mark .. '?', remember_ms) elseif ours then redis.call('DEL', key) end
  elseif ours or nothing or held == mark .. '?' then put(key, mark .. value, remember_ms) end
end
local found = {}
for i = 1, #begun, 3 do
  local key, mark, owner = begun[i], begun[i + 1], begun[i + 2]
  if not redis.call('SET', key, mark .. '.' .. owner, 'PX', in_flight_ms, 'NX') then
    local held = redis.pcall('GET', key)
    if type(held) ~= 'string' then put(key, mark .. '.' .. owner, in_flight_ms)
    else
      if held == mark .. '?' then put(key, mark .. '!' .. owner, in_flight_ms) end
      found[#found + 1], found[#found + 2] = (i - 1) / 3, held
    end
  end
end
return found
"""
_FREE, _DOUBT = "", "?"

_encode = msgspec.msgpack.Encoder().encode
# Bound once: `labels` would cost each order 0.5 µs.
_RESULTS = {
    name: metrics.IDEMPOTENT_REQUESTS.labels(name)
    for name in ("first", "doubtful", "in_flight", "reused", "replayed", "unremembered")
}


class Taken(Enum):
    """Why a keyed request may not go on."""

    IN_FLIGHT = "in_flight"
    REUSED = "reused"
    """The key came with another order."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Leave to go on, which must be settled: by `remember`, `free` or `give_up`."""

    name: str
    """What the key is called in Redis."""
    mark: str
    """The order's fingerprint, in hex."""
    owner: str
    in_doubt: bool = False
    """A request before this one may have left the order behind, so nobody may say that it was not accepted."""


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


def name_of(client: str, key: str, *, is_bulk: bool = False) -> str:
    """What a client's key is called in Redis. A client's name has no colon in it."""
    return f"{'bulk-' if is_bulk else ''}replay:{client}:{key}"


def judge(held: bytes, claim: Claim) -> Claim | Taken | Replay:
    """What stood at a key when `claim` was laid to it says how the request begins."""
    mark = claim.mark.encode()
    if not held:
        return claim
    if not held.startswith(mark):
        return Taken.REUSED
    state, status = held[len(mark) :][:1], held[len(mark) :][:3]
    if status.isdigit():
        return Replay(int(status), held[len(mark) + 3 :])
    return replace(claim, in_doubt=True) if state == b"?" else Taken.IN_FLIGHT


def may_be_accepted(error: BaseException) -> bool:
    """Whether a request that ended with `error` may have left an order behind."""
    return not isinstance(error, Problem) or error.name == "outcome-unknown"


def _result(begun: Claim | Taken | Replay) -> str:
    if isinstance(begun, Replay):
        return "replayed"
    if isinstance(begun, Taken):
        return begun.value
    return "doubtful" if begun.in_doubt else "first"


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
        self._breaker = redis_breaker(redis)
        self._to_begin: list[tuple[Claim, asyncio.Future[bytes]]] = []
        self._to_settle: list[str] = []  # name, mark, owner, value, name, …
        self._owners = (f"{process}{number:x}" for process in (secrets.token_hex(8),) for number in count())
        self._arrived = asyncio.Event()
        self._calling = asyncio.Lock()

    async def begin(self, name: str, fingerprint: bytes) -> Claim | Taken | Replay:
        """Take the key for this request, or learn who has it."""
        claim = Claim(name, fingerprint.hex(), next(self._owners))
        if len(self._to_begin) >= self._max_waiting or not self._breaker.may_try():
            _RESULTS["unremembered"].inc()
            return claim
        found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._to_begin.append((claim, found))
        self._arrived.set()
        begun = judge(await found, claim)
        _RESULTS[_result(begun)].inc()
        return begun

    def remember(self, claim: Claim, status: int, body: bytes) -> None:
        """Keep the answer for who asks again. The caller need not wait: until it is kept, they hear "in flight"."""
        self._settle(claim, f"{status}{body.decode()}")

    def free(self, claim: Claim) -> None:
        """The request was refused: who asks again is the first again, whatever they order. A doubt stays one."""
        self._settle(claim, _FREE)

    def give_up(self, claim: Claim, error: BaseException) -> None:
        """There is no answer to keep: who asks again is the first again. If an order may have been left behind, only
        with the same order.
        """
        self._settle(claim, _DOUBT if may_be_accepted(error) else _FREE)

    async def run(self) -> None:
        """One call to Redis after another, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._exchange()

    async def drain(self) -> None:
        """Settle what is left, and wait until it is."""
        await self._exchange()

    def _settle(self, claim: Claim, value: str) -> None:
        # While Redis is away nothing is kept, so that what waits for it is never more than one call's time brings.
        if len(self._to_settle) < 4 * self._max_waiting and not self._breaker.is_away:
            self._to_settle += (claim.name, claim.mark, claim.owner, value)
            self._arrived.set()

    async def _exchange(self) -> None:
        async with self._calling:
            await self._exchange_all()

    async def _exchange_all(self) -> None:
        beginning = [it for it in self._to_begin if not it[1].done()]  # done: its request was cancelled
        settling, self._to_settle, self._to_begin = self._to_settle, [], []
        if not beginning and not settling:
            return
        begun = [text for claim, _ in beginning for text in (claim.name, claim.mark, claim.owner)]
        found = await self._call(settling, begun)
        if found is None:  # nor do those who came meanwhile wait for a Redis that hangs
            beginning += self._to_begin
            self._to_begin, self._to_settle, found = [], [], {}
        for place, (_, waiter) in enumerate(beginning):
            if not waiter.done():
                waiter.set_result(found.get(place, b""))

    async def _call(self, settling: list[str], begun: list[str]) -> dict[int, bytes] | None:
        """What stood at the keys to begin, by their place, where anything did. None: Redis is away."""
        request = _encode((settling, begun, self._remember_ms, self._in_flight_ms))
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                found = await self._redis.eval(_EXCHANGE, 0, request)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            self._breaker.failed(error)
            return None
        self._breaker.worked(wrote=True)
        return dict(zip(found[::2], found[1::2], strict=True))
