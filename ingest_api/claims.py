"""What Redis and this process remember of keyed orders: the claims. See ingest_api.keyed for how they are used.

All keyed requests that wait at the same time share one round trip: while one call to Redis is in flight, what arrives
collects; when it returns, all of that is the next call. A request without a key comes nowhere near.

**How far Redis's memory can be believed.** A key that Redis does not hold was never used, or Redis has forgotten it.
The script notices what makes Redis forget: no marker (emptied, or new), another run_id (restarted, or another server
after a failover, with older data or none), or a higher count of evictions. Then its memory begins anew, and `Memory`
says so to every process that asks. INFO costs 21 µs a call, which all that wait together share.

**Restoring.** Each process keeps its latest claims, and puts them back as soon as it finds that Redis's memory began
anew. So an emptied Redis forgets only what a process held that has died as well.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from itertools import count
from typing import NamedTuple

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ingest_api.idempotency import Claim, Replay, Taken, judge
from pipeline import metrics
from pipeline.redis_link import redis_breaker

log = structlog.get_logger()

# Of one call to Redis. A keyed request waits for two at the most: one that was under way when it came, and its own. A
# deadline for each request would cost 9 µs an order (measured), which is a tenth of all that ingest_api does.
_CALL_TIMEOUT_S = 0.5
# Also without requests: so often a process learns that Redis has forgotten, and counts evictions.
_LOOK_EVERY_S = 1.0
# Values of five in one call, of a thousand claims: Redis does nothing else meanwhile, 5 ms.
_SETTLE_AT_ONCE = 5 * 1_000
# In each process, 300 bytes each.
_MAX_HELD = 20_000
# An order is stored so long after its claim, which may be dropped then: a worker gives a batch back after 600 s.
_SETTLES_WITHIN_S = 900.0

# One argument: a MessagePack. redis-py packs arguments one by one in Python: 4 keys and values an order took 4 to 5 µs,
# this takes 1.8 (64 orders a call). A value is
#
#   order id (32 hex digits), state (1), owner (16), until when it is in flight (13 digits, ms), what was priced
#
#   f   in flight       u   in flight, and another price may have been published before
#   ?   in doubt        !   in doubt, and the same
#   d   answered
#
# What is in doubt, or was in flight for too long, goes to the next request with the same order, as it was priced. Only
# its owner changes a value in flight, so a request that settles late changes nothing of the next one.
# Returns [run, evictions, began, level, now, then place, value, …] of those keys to begin at which something stood.
_EXCHANGE = """
local ns, settled, begun, remember_ms, in_flight_ms, most, unregistered, raise = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local marker = ns .. 'memory'
local function info(section, name)
  local text = redis.pcall('INFO', section)
  return type(text) == 'string' and string.match(text, name .. ':(%w+)') or ''
end
local run, evicted = info('server', 'run_id'), info('stats', 'evicted_keys')
local was = redis.pcall('HMGET', marker, 'run', 'evicted', 'began', 'level')
if was.err then redis.call('DEL', marker) was = {false, false, false, false} end
local began, level = tonumber(was[3]), tonumber(was[4])
if not began or not level or was[1] ~= run or was[2] ~= evicted or unregistered then
  began, level = math.max(now, (began or 0) + 1), 0
  redis.call('HSET', marker, 'run', run, 'evicted', evicted, 'began', string.format('%.0f', began), 'level', level)
end
if raise[1] == began and raise[2] > level then
  level = raise[2]
  redis.call('HSET', marker, 'level', level)
end

-- A write in each call that is for somebody: one that a replica refuses must not pass for one that works.
if #settled + #begun > 0 then redis.call('HSET', marker, 'asked', string.format('%.0f', now)) end

local function stands(key)
  local held = redis.pcall('GET', key)
  return type(held) == 'string' and #held >= 62 and held or nil
end
local function put(key, value) redis.call('SET', key, value, 'PX', remember_ms) end
local function is_in_flight(state) return state == 'f' or state == 'u' end

for i = 1, #settled, 5 do
  local key, id, owner, state, priced = unpack(settled, i, i + 4)
  local held = stands(key)
  local is_ours = held and held:sub(1, 32) == id and is_in_flight(held:sub(33, 33)) and held:sub(34, 49) == owner
  local is_doubt = held and held:sub(1, 32) == id and (held:sub(33, 33) == '?' or held:sub(33, 33) == '!')
  if state == '' then
    if is_ours then redis.call('DEL', key) end
  elseif is_ours or not held or (is_doubt and state == 'd') then
    put(key, id .. state .. owner .. '0000000000000' .. priced)
  end
end

local found = {run, evicted, string.format('%.0f', began), level, string.format('%.0f', now)}
local until_ms = string.format('%013.0f', now + in_flight_ms)
for i = 1, #begun, 6 do
  local key, ids, owner, priced, instead, claims = unpack(begun, i, i + 5)
  local held = stands(key)
  if held and instead ~= '' and redis.sha1hex(held) == instead then held = nil end
  if not held then
    local horizon = tonumber(redis.call('GET', claims .. ':dropped') or '')
    if priced ~= '' then
      put(key, ids:sub(1, 32) .. (level > 0 and 'f' or 'u') .. owner .. until_ms .. priced)
      redis.call('RPUSH', claims, string.format('%013.0f', now) .. key)
      redis.call('PEXPIRE', claims, remember_ms)
      for _ = 1, 2 do
        local first = redis.call('LINDEX', claims, 0)
        local made = tonumber(first:sub(1, 13))
        local is_old = made < now - remember_ms
        if not is_old and redis.call('LLEN', claims) <= most then break end
        redis.call('LPOP', claims)
        if not is_old then
          redis.call('DEL', first:sub(14))
          redis.call('SET', claims .. ':dropped', string.format('%.0f', made), 'PX', remember_ms)
          horizon = made
        end
      end
    end
    if horizon then found[#found + 1], found[#found + 2] = (i - 1) / 6, string.format('%.0f', horizon) end
  else
    local state, rest, same = held:sub(33, 33), held:sub(63), false
    for at = 1, #ids, 32 do same = same or ids:sub(at, at + 31) == held:sub(1, 32) end
    local is_over = is_in_flight(state) and tonumber(held:sub(50, 62)) < now
    if same and (is_over or state == '?' or state == '!') then
      local sure = state == 'f' or state == '?'
      put(key, held:sub(1, 32) .. (sure and 'f' or 'u') .. owner .. until_ms .. rest)
      held = held:sub(1, 32) .. (sure and '?' or '!') .. held:sub(34)
    end
    found[#found + 1], found[#found + 2] = (i - 1) / 6, held
  end
end
return found
"""
_HEAD = 5

_encode = msgspec.msgpack.Encoder().encode
# Bound once: `labels` would cost each order 0.5 µs.
_RESULTS = {
    name: metrics.IDEMPOTENT_REQUESTS.labels(name)
    for name in ("first", "doubtful", "in_flight", "reused", "replayed", "unremembered")
}

UNSETTLED, SETTLED, COMPLETE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Memory:
    """How far the absence of a key in Redis can be believed."""

    began_ms: int
    """Redis's time at which its memory began, or at which it dropped the client's latest claim that it dropped."""
    level: int
    """UNSETTLED: an order of before may still be on its way to the store. SETTLED: each is stored, or parked.
    COMPLETE: there was none.
    """
    now_ms: int

    def age_s(self) -> float:
        return (self.now_ms - self.began_ms) / 1_000


NO_MEMORY = Memory(0, UNSETTLED, 0)
"""Redis is away."""


class Asked(NamedTuple):
    """A key to begin."""

    claim: Claim
    ids: str
    """The order's id under each secret key, 32 hex digits each."""
    priced: str
    """"": only asked after, nothing is claimed."""
    instead: str
    """SHA-1 of a value that is not this deployment's, and is written over."""
    client: str


def _result(begun: Claim | Taken | Replay) -> str:
    if isinstance(begun, Replay):
        return "replayed"
    if isinstance(begun, Taken):
        return begun.value
    return "doubtful" if begun.in_doubt else "first"


# ── I/O below


class Claims:
    """Never raises. Without Redis, only what this process remembers is known."""

    def __init__(
        self,
        redis: Redis,
        namespace: str,
        *,
        remember_s: float,
        in_flight_s: float,
        max_waiting: int,
        max_per_client: int,
    ) -> None:
        """`in_flight_s`: after how long the key of a request that died may be used again. `max_waiting`: entries held
        for the next call; past it, requests go on as if Redis were away. `max_per_client`: claims that Redis holds of
        one client; past it, the client's own oldest is dropped.
        """
        self._redis, self._namespace = redis, namespace
        self._remember_ms, self._in_flight_ms = round(remember_s * 1000), round(in_flight_s * 1000)
        self._max_waiting, self._max_per_client = max_waiting, max_per_client
        self._breaker = redis_breaker(redis)
        self._to_begin: list[tuple[Asked, asyncio.Future[tuple[bytes, Memory]]]] = []
        self._to_settle: list[str] = []  # name, id, owner, state, priced, name, …
        self._held: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._owners = (f"{process}{number:06x}"[-16:] for process in (secrets.token_hex(5),) for number in count())
        self._arrived = asyncio.Event()
        self._calling = asyncio.Lock()
        self._memory, self._seen_at = NO_MEMORY, 0.0
        self._run_and_evictions: tuple[bytes, bytes] = (b"", b"")
        self._is_unregistered = False
        self._raised: tuple[int, int] = (0, 0)

    @property
    def memory(self) -> Memory:
        """As of the latest call."""
        return NO_MEMORY if self._breaker.is_away else self._memory

    @property
    def memory_seen_at(self) -> float:
        """Loop time at which this process first heard of the present memory."""
        return self._seen_at

    async def begin(
        self, name: str, ids: Sequence[str], priced: str, client: str, instead: bytes = b""
    ) -> tuple[Claim | Taken | Replay | bytes, Memory]:
        """Take the key for this order, or learn who has it; and how far that can be believed.

        `ids`: the order's id under each secret key, in hex. `priced`: what the claim carries; "": claim nothing, only
        look. `instead`: what stood at the key before, and is not ours. Returns bytes where an order stands at the key
        that is none of `ids`.
        """
        claim = Claim(name, ids[0], next(self._owners), priced)
        asked = Asked(
            claim, "".join(ids), priced, sha1(instead, usedforsecurity=False).hexdigest() if instead else "", client
        )
        held, memory = await self._ask(asked)
        if not held and memory.level == UNSETTLED and (held := self._known(asked)):
            # Redis has forgotten it, and was told of it a moment too late.
            self._settle(claim, "", "")
            self._to_settle += self._held[name]
        begun = judge(held, claim, ids)
        if isinstance(begun, Replay):
            self._hold((name, begun.order_id, claim.owner, "d", begun.priced))
        if not isinstance(begun, bytes):
            _RESULTS[_result(begun)].inc()
        return begun, memory

    def remember(self, claim: Claim, priced: str) -> None:
        """Keep the answer. The caller need not wait: until it is kept, retries hear "in flight"."""
        self._settle(claim, "d", priced)

    def give_up(self, claim: Claim, *, may_be_accepted: bool, is_sure: bool) -> None:
        """There is no answer. A retry goes on with what this one priced, if it may be accepted; else it begins anew.

        `is_sure`: no other price can have been published for the same order.
        """
        if may_be_accepted or claim.in_doubt:
            self._settle(claim, "?" if is_sure else "!", claim.priced)
        else:
            self._held.pop(claim.name, None)
            self._settle(claim, "", "")

    def published_without(self) -> None:
        """An order is published that Redis does not know: its memory has a gap."""
        self._is_unregistered = True

    def raise_to(self, memory: Memory, level: int) -> None:
        """What was found out about `memory`, for all processes."""
        if self._memory.began_ms == memory.began_ms and self._memory.level < level:
            self._raised = memory.began_ms, level
            self._memory = Memory(memory.began_ms, level, memory.now_ms)

    async def run(self) -> None:
        """One call to Redis after another, until cancelled."""
        await self._exchange()
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._arrived.wait()
            except TimeoutError:
                if not self._breaker.may_try():
                    continue
            self._arrived.clear()
            await self._exchange()

    async def drain(self) -> None:
        """Settle what is left, and wait until it is."""
        await self._exchange()
        while self._to_settle:
            await self._exchange()

    async def _ask(self, asked: Asked) -> tuple[bytes, Memory]:
        if len(self._to_begin) >= self._max_waiting or not self._breaker.may_try():
            _RESULTS["unremembered"].inc()
            return self._known(asked), NO_MEMORY
        found: asyncio.Future[tuple[bytes, Memory]] = asyncio.get_running_loop().create_future()
        self._to_begin.append((asked, found))
        self._arrived.set()
        return await found

    def _known(self, asked: Asked) -> bytes:
        """What this process remembers of the key, as the script would return it."""
        held = self._held.get(asked.claim.name)
        if held is None:
            return b""
        _, order_id, owner, state, priced = held
        return "".join((order_id, state, owner, "0" * 13, priced)).encode()

    def _settle(self, claim: Claim, state: str, priced: str) -> None:
        settled = claim.name, claim.order_id, claim.owner, state, priced
        if state:
            self._hold(settled)
        # While Redis is away nothing waits for it, so that what waits is never more than one call's time brings.
        if len(self._to_settle) < 5 * self._max_waiting and not self._breaker.is_away:
            self._to_settle += settled
            self._arrived.set()

    def _hold(self, settled: tuple[str, ...]) -> None:
        self._held[settled[0]] = settled
        self._held.move_to_end(settled[0])
        if len(self._held) > _MAX_HELD:
            self._held.popitem(last=False)

    async def _exchange(self) -> None:
        async with self._calling:
            await self._exchange_all()

    async def _exchange_all(self) -> None:
        beginning = [it for it in self._to_begin if not it[1].done()]  # done: its request was cancelled
        settling, self._to_settle = self._to_settle[:_SETTLE_AT_ONCE], self._to_settle[_SETTLE_AT_ONCE:]
        self._to_begin = []
        found = await self._call(settling, [it for it, _ in beginning])
        if found is None:  # nor do those who came meanwhile wait for a Redis that hangs
            beginning += self._to_begin
            self._to_begin, self._to_settle = [], []
        elif self._to_settle:
            self._arrived.set()
        for place, (asked, waiter) in enumerate(beginning):
            if not waiter.done():
                waiter.set_result((self._known(asked), NO_MEMORY) if found is None else self._found(found.get(place)))

    def _found(self, held: bytes | None) -> tuple[bytes, Memory]:
        """What stood at a key, or when the client's latest dropped claim was made."""
        if held is None:
            return b"", self._memory
        if len(held) > 20 or not held.isdigit():
            return held, self._memory
        dropped_ms, now_ms = int(held), self._memory.now_ms
        if dropped_ms < self._memory.began_ms:
            return b"", self._memory
        is_settled = self._memory.level > UNSETTLED and now_ms - dropped_ms > 1_000 * _SETTLES_WITHIN_S
        return b"", Memory(dropped_ms, SETTLED if is_settled else UNSETTLED, now_ms)

    async def _call(self, settling: list[str], beginning: list[Asked]) -> dict[int, bytes] | None:
        """What stood at the keys to begin, by their place, where anything did. None: Redis is away."""
        begun = [value for it in beginning for value in self._arguments(it)]
        limits = self._remember_ms, self._in_flight_ms, self._max_per_client
        # Taken off first: what is published without Redis during this call is for the next one to say.
        is_unregistered, self._is_unregistered = self._is_unregistered, False
        request = _encode((self._namespace, settling, begun, *limits, is_unregistered, self._raised))
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                found = await self._redis.eval(_EXCHANGE, 0, request)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            self._breaker.failed(error)
            self._is_unregistered |= is_unregistered
            return None
        self._breaker.worked(wrote=bool(settling or beginning))
        self._learn(*found[:_HEAD])
        return dict(zip(found[_HEAD::2], found[_HEAD + 1 :: 2], strict=True))

    def _arguments(self, asked: Asked) -> tuple[str, ...]:
        claim, claims = asked.claim, f"{self._namespace}claims:{asked.client}"
        return claim.name, asked.ids, claim.owner, asked.priced, asked.instead, claims

    def _learn(self, run: bytes, evicted: bytes, began: bytes, level: int, now: bytes) -> None:
        memory = Memory(int(began), level, int(now))
        if memory.began_ms != self._memory.began_ms:
            self._seen_at = asyncio.get_running_loop().time()
            if self._memory is not NO_MEMORY:
                log.warning("redis has forgotten idempotency keys; asking the store", restoring=len(self._held))
                metrics.IDEMPOTENCY_LOSSES.inc()
            self._restore()
        former_run, former = self._run_and_evictions
        if run == former_run and evicted.isdigit() and former.isdigit() and int(evicted) > int(former):
            metrics.REDIS_EVICTIONS.inc(int(evicted) - int(former))
        self._run_and_evictions, self._memory = (run, evicted), memory

    def _restore(self) -> None:
        """Put back what this process knows, the latest first."""
        for held in self._held.values():
            self._to_settle += held
        if self._to_settle:
            self._arrived.set()
