"""Publishes the event log to the exchange order_events: one message for each type in a page of events.

Of several relays one publishes: it holds the lease in event_exchange. Its cursor passes what RabbitMQ confirmed, and
what no queue waits for. A queue gets every event that is logged after it was bound:

- The relay passes an event without publishing it only if RabbitMQ returned a message with the event's routing key as
  unroutable, and sent it after the event was in the log. A queue bound before the event would have got that message.
- So one answer counts for all events that the log held before the question. Thousands of events that nobody wants
  cost one message.
- Once a key had no queue, the relay asks first: it sends an empty array with that key. If RabbitMQ takes it, a queue
  has been bound, and the events follow. Events that come back would have been transferred twice for nothing.
- If no key is known to have a queue, the relay asks for the others. If none has one, it is idle: it reads no events,
  and asks once a second for all keys. While one key has a queue, the relay never waits.

RabbitMQ matches wildcards, such as `order.*`, before it answers, so they need no care here.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress

import structlog

from database.log_follower import LogFollower, OtherLog
from database.sessions import Pool, StoreUnavailable, reading
from event_relay.leases import EXTEND_EVERY_S, LEASE_S, LEAST_TIMEOUT_S, MARGIN_S
from event_relay.routing import Bindings, Message, messages_of
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract.order_events import EventType, join_events
from pipeline.contract.topology import EVENTS_EXCHANGE
from pipeline.process import metrics
from pipeline.process.backoff import backoff_s
from pipeline.process.coroutines import set_within
from pipeline.process.lifecycle import Abandoned, background

log = structlog.get_logger()

# A message of so many events takes some 350 kB.
_PAGE_EVENTS = 500
_PROBE_EVERY_S = 1.0
# While there is nothing to publish: so that the lease is extended in time.
_IDLE_S = EXTEND_EVERY_S / 2
_NO_EVENTS = b"[]"
_AWAY_S = 1.0
# Each attempt at a message that one full queue refuses puts it into the others once more.
_LAST_RETRY_S = 30.0
# Before another relay is let try: some 10 s.
_MOST_NOT_SENT = 7

_TAKE = """
    UPDATE event_exchange SET holder = $1, held_until = clock_timestamp() + make_interval(secs => $2)
    WHERE holder IS NULL OR holder = $1 OR held_until < clock_timestamp() RETURNING published
"""
# Fenced: it moves the cursor only from where this relay has left it. So it undoes neither what a successor has
# published since our lease ended, nor the restore of a database.
_SAVE = "UPDATE event_exchange SET published = $3 WHERE holder = $1 AND published = $2 RETURNING published"
_RELEASE = "UPDATE event_exchange SET holder = NULL, held_until = NULL WHERE holder = $1"


class _LeaseLost(Exception):
    """Another relay publishes now, or soon; or the cursor is not where we left it."""


class _Away(Exception):
    """RabbitMQ cannot be reached from here."""


class EventExchange:
    """Never raises for faults of PostgreSQL or RabbitMQ."""

    def __init__(
        self,
        holder: str,
        follower: LogFollower,
        publisher: Publisher,
        pool: Pool,
        *,
        timeout_s: float,
        confirm_timeout_s: float,
    ) -> None:
        """`holder`: this process's id, a UUID. `publisher`: declares order_events. `timeout_s`: for PostgreSQL to
        answer. `confirm_timeout_s`: for RabbitMQ.
        """
        self._holder, self._follower, self._publisher = holder, follower, publisher
        self._pool, self._timeout_s, self._confirm_timeout_s = pool, timeout_s, confirm_timeout_s
        self._cursor: int | None = None
        """None: another relay publishes, or nobody does."""
        self._log_id: int | None = None
        """Of the log that the cursor is a place in. None until PostgreSQL has been reached."""
        self._held_until = self._probe_at = 0.0
        self._bindings = Bindings()
        self._is_idle, self._following = False, ExitStack()
        self._stop, self._stopped = asyncio.Event(), asyncio.Event()
        self._awake = asyncio.Event()

    async def run(self) -> None:
        """Publish, until cancelled."""
        async with background(self._watch()):
            while not self._stop.is_set():
                await self._turn()
            self._stopped.set()
            await asyncio.get_running_loop().create_future()

    async def stop(self, grace_s: float) -> None:
        """Let the message in hand be confirmed, and leave the rest to another relay. Without its confirm, that one
        sends it again.
        """
        self._stop.set()
        self._awake.set()
        await set_within(grace_s, self._stopped)
        with suppress(StoreUnavailable):
            await self._release()

    async def _watch(self) -> None:
        seen = 0
        while True:
            seen = await self._follower.wait_beyond(seen, 60.0)
            self._awake.set()

    async def _turn(self) -> None:
        """Do one thing. If there is nothing to do, wait until the log goes on."""
        self._awake.clear()
        wait_s, woken_by = _AWAY_S, self._stop
        try:
            if not self._publisher.is_open:
                raise _Away
            await self._hold()
            wait_s, woken_by = await self._step(), self._awake
        except (_Away, OtherLog):
            # Perhaps another relay reaches RabbitMQ. Or the database was restored: begin with what its row says.
            with suppress(StoreUnavailable):
                await self._release()
        except (_LeaseLost, StoreUnavailable, Abandoned):
            pass
        self._count()
        if wait_s > 0 and not self._stop.is_set():
            await set_within(wait_s, woken_by)

    async def _step(self) -> float:
        cursor, end = self._cursor, self._follower.last_offset
        if cursor is None or end is None:
            return _IDLE_S
        if self._log_id is None:
            self._log_id = self._follower.log_id
        if end < cursor or self._log_id != self._follower.log_id:  # the other log may be the longer one already
            raise OtherLog
        if end == cursor:
            return _IDLE_S
        if self._is_idle:
            left_s = self._probe_at - time.monotonic()
            return left_s if left_s > 0 else await self._look_for_queues(end)
        page = await self._follower.read(cursor, _PAGE_EVENTS)
        if page.upto <= cursor:
            return _IDLE_S
        end = max(end, page.upto)
        for message in messages_of(page.events):
            await self._publish(message, end)
        if page.events and not self._bindings.is_any_bound:
            await self._probe(self._bindings.unknown, end)
            if self._bindings.unwanted_upto(*EventType):
                self._follow(is_idle=True)
        await self._save(page.upto)
        return 0.0

    async def _look_for_queues(self, end: int) -> float:
        """If none is bound, pass what is in the log, else end being idle. `end`: of the log, read before."""
        self._probe_at = time.monotonic() + _PROBE_EVERY_S
        if await self._probe(EventType, end):
            self._bindings.forget_unbound()
            self._follow(is_idle=False)
        elif (upto := self._bindings.unwanted_upto(*EventType)) > (self._cursor or 0):
            await self._save(upto)
        return 0.0

    async def _probe(self, keys: Iterable[str], end: int) -> bool:
        """Ask whether a queue is bound to one of these keys, until one is. `end`: of the log, read before. Raises
        _LeaseLost, StoreUnavailable.
        """
        for key in keys:
            self._bindings.learn(key, await self._send(key, _NO_EVENTS), end)
            if self._bindings.is_bound(key):
                return True
        return False

    def _follow(self, *, is_idle: bool) -> None:
        """Read new events as they come, or not."""
        if is_idle != self._is_idle:
            log.info("no queue is bound to order_events" if is_idle else "a queue is bound to order_events")
        self._is_idle = is_idle
        self._following.close()
        if not is_idle:
            self._following.enter_context(self._follower.following())

    async def _publish(self, message: Message, end: int) -> None:
        """Publish until RabbitMQ takes the message, or says that nobody wants it. `end`: of the log, read before.
        Raises _Away, _LeaseLost, Abandoned, StoreUnavailable.
        """
        if await self._is_unwanted(message, end):
            return
        body, failed = join_events(it.encoded for it in message.events), 0
        while (outcome := await self._send(message.type, body)) not in (Outcome.CONFIRMED, Outcome.UNROUTABLE):
            if outcome is Outcome.NOT_SENT and failed >= _MOST_NOT_SENT:
                raise _Away
            wait_s = backoff_s(failed, last_s=_LAST_RETRY_S)
            failed += 1
            log.warning("events were not published", outcome=outcome.value, retry_in_s=round(wait_s, 1))
            await self._wait_to_retry(wait_s)
        self._bindings.learn(message.type, outcome, end)
        if outcome is Outcome.CONFIRMED:
            metrics.EVENTS_PUBLISHED.inc(len(message.events))

    async def _is_unwanted(self, message: Message, end: int) -> bool:
        """Whether no queue waits for the message. Asks RabbitMQ if its key had no queue the last time."""
        key, bindings = message.type, self._bindings
        if bindings.is_unbound(key) and bindings.unwanted_upto(key) < message.last_offset:
            await self._probe((key,), end)
        return bindings.unwanted_upto(key) >= message.last_offset

    async def _send(self, key: str, body: bytes) -> Outcome:
        """Send one message, and wait for its confirm no longer than the lease lasts. Without one the publisher drops
        its connection, so no message of ours is under way when another relay begins. Raises _LeaseLost,
        StoreUnavailable.
        """
        await self._hold()
        left_s = self._held_until - MARGIN_S - time.monotonic()
        if left_s < LEAST_TIMEOUT_S:
            raise _LeaseLost
        timeout_s = min(self._confirm_timeout_s, left_s)
        return await self._publisher.publish(EVENTS_EXCHANGE, key, body, schema=None, timeout_s=timeout_s)

    async def _wait_to_retry(self, seconds: float) -> None:
        """Wait, and stay the one that publishes. Raises Abandoned when the process stops."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            await self._hold()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, EXTEND_EVERY_S)):
                    await self._stop.wait()
                    raise Abandoned

    # The lease and the cursor

    async def _hold(self) -> None:
        """Begin the lease, or extend it if it is time. Raises _LeaseLost, StoreUnavailable."""
        now = time.monotonic()
        if self._cursor is not None and now < self._held_until - LEASE_S + EXTEND_EVERY_S:
            return
        published = await self._ask(_TAKE, self._holder, LEASE_S)
        if published is None or self._cursor not in (None, published):
            self._let_go()
            raise _LeaseLost
        self._held_until = now + LEASE_S
        if self._cursor is None:
            self._cursor, self._log_id, self._bindings = published, self._follower.log_id, Bindings()
            self._is_idle = False
            log.info("publishing to order_events")
            self._follow(is_idle=False)

    async def _save(self, cursor: int) -> None:
        """Write down that everything up to there is published. Raises _LeaseLost, StoreUnavailable."""
        if await self._ask(_SAVE, self._holder, self._cursor, cursor) is None:
            self._let_go()
            raise _LeaseLost
        self._cursor = cursor

    async def _release(self) -> None:
        if self._cursor is not None:
            self._let_go()
            await self._ask(_RELEASE, self._holder)

    def _let_go(self) -> None:
        self._cursor = None
        self._following.close()

    async def _ask(self, statement: str, *values: object) -> int | None:
        async with reading(self._pool, self._timeout_s) as connection:
            number: int | None = await connection.fetchval(statement, *values)
            return number

    def _count(self) -> None:
        end = self._follower.last_offset
        metrics.EXCHANGE_LAG.set(max(0, end - self._cursor) if end is not None and self._cursor is not None else 0)
