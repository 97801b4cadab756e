"""Claims: what Redis and this process remember of keyed orders.

ingest_api.idempotency.keyed says how they are used, ingest_api.idempotency.claims_script what Redis does.

All keyed requests that wait at the same time share one round trip. While one call to Redis is in flight, arrivals
collect; when it returns, they are the next call. A request without a key never comes here.

**How far Redis's memory can be believed.** A key that Redis does not hold was never used, or Redis has forgotten it.
The script notices what makes Redis forget. The marker is missing: emptied, or new. The run_id is another: restarted, or
a failover to a server with older data or none. The count of evictions rose. Or an order was published without Redis.
Then the memory begins anew, and `KeyMemory` tells every process that asks. INFO costs 21 µs a call, shared by all that
wait.

**Restoring.** Each process keeps its latest claims. When Redis was emptied or restarted, the process puts them back:
the latest first, in small calls. It also puts back the claims of a failed call. So an emptied Redis loses only the
claims of processes that died as well. Evictions restore nothing: a full Redis would only evict more. Nobody can tell
which keys were evicted. While evictions go on, no missing key is believed to be new, and its order waits for the store.

**A client's share.** Past it, Redis drops the client's own oldest claims. The store knows their orders once they are
stored. So each order that is found stored also shows that everything claimed well before it is stored.
"""

import asyncio
import secrets
from collections.abc import Sequence
from hashlib import sha1
from itertools import count
from time import time
from typing import NamedTuple

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ingest_api.idempotency.claims_script import EXCHANGE, HEAD
from ingest_api.idempotency.held_claims import HeldClaims, Settled
from ingest_api.idempotency.records import Claim, KeyConflict, Replay, judge
from ingest_api.idempotency.redis_trust import NO_KEY_MEMORY, SETTLES_WITHIN_S, UNSETTLED, KeyMemory, RedisTrust
from pipeline.cache.redis_link import redis_breaker
from pipeline.process import metrics

log = structlog.get_logger()

# Of one call to Redis. A keyed request waits for two calls at the most: the one in flight when it arrives, and its own.
# A deadline for each request would cost 9 µs an order (measured), a tenth of all that ingest_api does.
_CALL_TIMEOUT_S = 0.5
# A process without requests calls this often, to learn whether Redis has forgotten and to count evictions.
_LOOK_EVERY_S = 1.0
# Claims are restored in small calls, and Redis is left to others for this long between two of them.
_RESTORE_EVERY_S = 0.02
# Calls at shutdown: more than it takes to settle everything. A Redis that forgets over and over cannot delay the stop.
_MAX_DRAINING_CALLS = 80
_LOG_EVICTIONS_EVERY_S = 60.0


_encode = msgspec.msgpack.Encoder().encode
# Bound once: calling `labels` would cost each order 0.5 µs.
_RESULTS = {
    name: metrics.IDEMPOTENT_REQUESTS.labels(name)
    for name in ("first", "doubtful", "in_flight", "reused", "replayed", "unremembered")
}


class ClaimRequest(NamedTuple):
    """A request for a key."""

    claim: Claim
    ids: str
    """The order's id under each secret key, 32 hex digits each."""
    priced: str
    """"": only look, claim nothing."""
    instead: str
    """SHA-1 of a value that this deployment did not write, and that may be overwritten."""


def _result(begun: Claim | KeyConflict | Replay) -> str:
    if isinstance(begun, Replay):
        return "replayed"
    if isinstance(begun, KeyConflict):
        return begun.value
    return "doubtful" if begun.in_doubt else "first"


# ── I/O below


class Claims:
    """Begins and settles claims. Never raises. Without Redis, it knows only what this process remembers."""

    def __init__(
        self,
        redis: Redis,
        namespace: str,
        *,
        remember_s: float,
        in_flight_s: float,
        max_waiting: int,
        max_bytes_per_client: int,
    ) -> None:
        """`in_flight_s`: the key of a request that died may be used again after this time. `max_waiting`: entries held
        for the next call; past it, requests go on as if Redis were away. `max_bytes_per_client`: share of Redis for one
        client's claims; past it, Redis drops that client's oldest.
        """
        self._redis, self._namespace = redis, namespace
        self._remember_ms, self._in_flight_ms = round(remember_s * 1000), round(in_flight_s * 1000)
        self._max_waiting, self._max_bytes_per_client = max_waiting, max_bytes_per_client
        self._breaker = redis_breaker(redis)
        self._to_begin: list[tuple[ClaimRequest, asyncio.Future[tuple[bytes, KeyMemory]]]] = []
        self._held = HeldClaims(max_waiting)
        self._owners = (f"{process}{number:06x}"[-16:] for process in (secrets.token_hex(5),) for number in count())
        self._arrived = asyncio.Event()
        self._calling = asyncio.Lock()
        self._looking: asyncio.Task[bool] | None = None
        self._memory = RedisTrust()
        self._evictions_logged_at = float("-inf")
        self._is_unregistered = False

    @property
    def memory(self) -> KeyMemory:
        """Redis's memory as of the latest call."""
        return NO_KEY_MEMORY if self._breaker.is_away else self._memory.current

    @property
    def memory_seen_at(self) -> float:
        """Loop time at which this process first heard of the current memory."""
        return self._memory.seen_at

    async def begin(
        self, name: str, ids: Sequence[str], priced: str, client: str, instead: bytes = b""
    ) -> tuple[Claim | KeyConflict | Replay | bytes, KeyMemory]:
        """Claim the key for this order, or return the request that holds it; and how far Redis can be believed.

        `ids`: the order's id under each secret key, in hex. `priced`: the prices for the claim; "": claim nothing, only
        look. `instead`: a value at the key that is not a claim, to be overwritten. Returns bytes if the key holds
        something other than an order of `ids`.
        """
        claim = Claim(name, ids[0], next(self._owners), priced, client=client)
        asked = ClaimRequest(
            claim, "".join(ids), priced, sha1(instead, usedforsecurity=False).hexdigest() if instead else ""
        )
        held, memory = await self._ask(asked)
        if not held and memory.level == UNSETTLED and (held := self._known(asked)):
            # Redis has forgotten the key, and this process has not restored it yet.
            self._settle(claim, "", "")
            if (known := self._held.get(name)) is not None:
                self._settle_soon(known)
        begun = judge(held, claim, ids)
        if isinstance(begun, Replay):
            made, claims = begun.made, self._list_of(client)
            self._held.hold(Settled(name, begun.order_id, claim.owner, "d", made, begun.priced, claims))
        if not isinstance(begun, bytes):
            _RESULTS[_result(begun)].inc()
        return begun, memory

    async def look(self) -> KeyMemory:
        """Ask Redis now. Without an answer, NO_KEY_MEMORY."""
        if self._breaker.may_try():
            # Requests wait for this call too, so it goes on if the caller is cancelled.
            self._looking = asyncio.create_task(self._exchange())
            await asyncio.shield(self._looking)
        return self.memory

    def remember(self, claim: Claim, priced: str) -> None:
        """Keep the answer. The caller need not wait: until it is kept, retries are told "in flight"."""
        self._settle(claim, "d", priced)

    def give_up(self, claim: Claim, *, may_be_accepted: bool, is_sure: bool) -> None:
        """End a claim without an answer. If the order may be accepted, a retry reuses its prices; else it starts fresh.

        `is_sure`: no other price can have been published for the same order.
        """
        if may_be_accepted or claim.in_doubt:
            self._settle(claim, "?" if is_sure else "!", claim.priced)
        else:
            self._held.forget(claim.name)
            self._settle(claim, "", "")

    def published_without(self) -> None:
        """Note that an order is published without Redis, so Redis's memory has a gap."""
        self._is_unregistered = True

    def raise_to(self, memory: KeyMemory, level: int) -> None:
        """Raise `memory` to `level` for all processes. About a client's dropped claims, only this process learns."""
        self._memory.raise_to(memory, level)

    async def run(self) -> None:
        """Call Redis again and again, until cancelled."""
        await self._exchange()
        while True:
            try:
                async with asyncio.timeout(_RESTORE_EVERY_S if self._held.restoring else _LOOK_EVERY_S):
                    await self._arrived.wait()
            except TimeoutError:
                if not self._breaker.may_try():
                    continue
            self._arrived.clear()
            await self._exchange()

    async def drain(self) -> None:
        """Settle what is left, and wait until that is done."""
        for _ in range(_MAX_DRAINING_CALLS):
            if not await self._exchange() or not (self._held.settling or self._held.restoring):
                return

    async def _ask(self, asked: ClaimRequest) -> tuple[bytes, KeyMemory]:
        if len(self._to_begin) >= self._max_waiting or not self._breaker.may_try():
            _RESULTS["unremembered"].inc()
            return self._known(asked), NO_KEY_MEMORY
        found: asyncio.Future[tuple[bytes, KeyMemory]] = asyncio.get_running_loop().create_future()
        self._to_begin.append((asked, found))
        self._arrived.set()
        return await found

    def _known(self, asked: ClaimRequest) -> bytes:
        """What this process remembers of the key, as the script would return it."""
        held = self._held.get(asked.claim.name)
        return held.value() if held else b""

    def _settle(self, claim: Claim, state: str, priced: str) -> None:
        # Redis's own time would cost a call for each answer; this is the time of the latest call.
        made = claim.made or f"{self._memory.current.now_ms or round(time() * 1_000):013d}"
        claims = self._list_of(claim.client)
        settled = Settled(claim.name, claim.order_id, claim.owner, state, made, priced, claims)
        if state:
            self._held.hold(settled)
        self._settle_soon(settled)

    def _settle_soon(self, settled: Settled) -> None:
        if self._held.settle(settled, is_away=self._breaker.is_away):
            self._arrived.set()

    async def _exchange(self) -> bool:
        """Make one call. Returns whether Redis works."""
        async with self._calling:
            return await self._exchange_all()

    async def _exchange_all(self) -> bool:
        beginning = [it for it in self._to_begin if not it[1].done()]  # done: its request was cancelled
        settling = self._held.take()
        self._to_begin = []
        found = await self._call(settling, [it for it, _ in beginning])
        if found is None:  # requests that came meanwhile do not wait for a hanging Redis
            beginning += self._to_begin
            self._held.call_failed(settling)
            self._to_begin = []
        elif self._held.settling:
            self._arrived.set()
        for place, (asked, waiter) in enumerate(beginning):
            if not waiter.done():
                waiter.set_result(
                    (self._known(asked), NO_KEY_MEMORY) if found is None else self._memory.found(found.get(place))
                )
        return found is not None

    async def _call(self, settling: list[Settled], beginning: list[ClaimRequest]) -> dict[int, bytes] | None:
        """What the script found for the keys to begin, by their place, if anything. None: Redis is away."""
        begun = [value for it in beginning for value in self._arguments(it)]
        settled = [value for it in settling for value in it]
        limits = self._remember_ms, self._in_flight_ms, round(1_000 * SETTLES_WITHIN_S), self._max_bytes_per_client
        # Reset before the call: the next call reports what is published without Redis during this one.
        is_unregistered, self._is_unregistered = self._is_unregistered, False
        request = _encode((self._namespace, settled, begun, *limits, is_unregistered, self._memory.raised))
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                found = await self._redis.eval(EXCHANGE, 0, request)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            self._breaker.failed(error)
            self._is_unregistered |= is_unregistered
            return None
        self._breaker.worked(wrote=bool(settling or beginning))
        self._learn(*found[:HEAD])
        return dict(zip(found[HEAD::2], found[HEAD + 1 :: 2], strict=True))

    def _arguments(self, asked: ClaimRequest) -> tuple[str, ...]:
        claim = asked.claim
        return claim.name, asked.ids, claim.owner, asked.priced, asked.instead, self._list_of(claim.client)

    def _list_of(self, client: str) -> str:
        return f"{self._namespace}claims:{client}"

    def _learn(self, run: bytes, evicted: bytes, began: bytes, level: int, now: bytes, gap: bytes) -> None:
        loop_time = asyncio.get_running_loop().time()
        changes = self._memory.learn(run, evicted, began, level, now, gap, loop_time=loop_time)
        if changes.evicted:
            metrics.REDIS_EVICTIONS.inc(changes.evicted)
        if changes.is_loss:
            metrics.IDEMPOTENCY_LOSSES.inc()
        if changes.is_gap:
            log.warning("redis has forgotten idempotency keys; asking the store", restoring=len(self._held))
            self._held.restore_all()
        elif changes.is_loss:
            self._log_evictions(loop_time)

    def _log_evictions(self, now: float) -> None:
        if now - self._evictions_logged_at > _LOG_EVICTIONS_EVERY_S:
            self._evictions_logged_at = now
            log.warning("redis is full and drops keys; orders with a key wait for the store")
