"""Sends to one hook: one request at a time, in the order of the log, each until it is delivered.

So the events of an order never overtake each other, and nothing is skipped. A slow receiver delays its own events; a
larger batch is the remedy, see docs. What is delivered is noted after each request, and written down by HookProgress.
"""

import asyncio
import time
from collections import deque
from datetime import UTC, datetime

import structlog

from database.event_ring import Page
from database.log_follower import LogFollower, OtherLog
from database.sessions import StoreUnavailable
from event_relay.delivery import WebhookClient
from event_relay.hook_progress import HookProgress
from event_relay.hook_store import Attempt, Hook, HookRow, HookStore, Standing
from event_relay.leases import LEAST_TIMEOUT_S, MARGIN_S
from event_relay.requests import Request, request_for_test, requests_of
from event_relay.retry import Again, Answer, Delivered, Pause, next_step
from event_relay.signing import signed_headers
from pipeline.process import metrics
from pipeline.process.coroutines import set_within

log = structlog.get_logger()

# Of the log, for small batches: a page is encoded and read once for all hooks that are at the same place.
_PAGE_EVENTS = 200
_AWAY_S = 1.0
_IDLE_S = 3600.0
# Each failure is told, but of many successes one a second.
_TELL_SUCCESS_EVERY_S = 1.0


class HookSender:
    def __init__(
        self,
        row: HookRow,
        follower: LogFollower,
        client: WebhookClient,
        store: HookStore,
        progress: HookProgress,
        held_until: float,
    ) -> None:
        """`held_until`: when the lease ends, in `time.monotonic()`."""
        self.hook: Hook = row.hook
        self.standing: Standing = row.standing
        self.test_wanted_at = row.test_wanted_at
        self._tested_at: datetime | None = None
        """The last `test_wanted_at` whose result is written down. A look may have begun before that."""
        self._held_until = held_until
        self._follower, self._client, self._store, self._progress = follower, client, store, progress
        self._requests: deque[Request] = deque()
        self._page_upto = row.standing.delivered
        self._log_id = follower.log_id
        """Of the log that `delivered` is a place in. None until PostgreSQL has been reached."""
        self._retry_at = _in(row.standing.retry_in_s)
        self._success_told_at = 0.0
        self._is_stopping = False
        self._lease_timer: asyncio.Timeout | None = None
        """Ends the request in hand when the lease ends."""
        self._awake = asyncio.Event()
        self._log = log.bind(hook=self.hook.id)

    def wake(self) -> None:
        """The log goes on."""
        self._awake.set()

    def extend(self, held_until: float) -> None:
        """The lease is longer now, and with it the time that the request in hand may take."""
        self._held_until = held_until
        if self._lease_timer is not None and not self._lease_timer.expired():
            self._lease_timer.reschedule(asyncio.get_running_loop().time() + self._time_left_s())
        self._awake.set()

    def see(self, row: HookRow, *, is_newer: bool) -> None:
        """Take over what an operator has changed in the row. `is_newer`: than all that this sender knows."""
        self.hook = row.hook
        self.test_wanted_at = row.test_wanted_at if row.test_wanted_at != self._tested_at else None
        if row.standing.pause_reason is not None:
            self.standing.pause_reason = row.standing.pause_reason
        elif is_newer and self.standing.pause_reason is not None:
            self.stop()  # it was resumed: the next sender begins with what the row says
        elif is_newer and row.standing.retry_in_s is None:
            self._retry_at = 0.0  # somebody wants it to be tried now
        self._awake.set()

    def stop(self) -> None:
        """Let `run` return once the request in hand has its answer."""
        self._is_stopping = True
        self._awake.set()

    async def run(self) -> None:
        """Send until stopped, or until the hook is somebody else's."""
        with self._follower.following():
            while not self._is_stopping and not self.standing.is_lost:
                self._awake.clear()
                wait_s = await self._step()
                if wait_s > 0 and not self._is_stopping:
                    await set_within(wait_s, self._awake)

    async def _step(self) -> float:
        """Do one thing, and return for how long nothing is to be done unless something wakes us."""
        if self._time_left_s() < LEAST_TIMEOUT_S:
            return _IDLE_S
        if self.test_wanted_at is not None:
            return await self._test(self.test_wanted_at)
        if self.standing.pause_reason is not None:
            return _IDLE_S
        if (left_s := self._retry_at - time.monotonic()) > 0:
            return left_s
        if not self._requests and (wait_s := await self._fill()):
            return wait_s
        if self._requests:
            await self._send(self._requests[0])
        return 0.0

    async def _fill(self) -> float:
        """Read the next events. Returns how long to wait, if there are none."""
        after = self._page_upto
        if self._log_id is None:
            self._log_id = self._follower.log_id
        if self._log_id != self._follower.log_id:
            # The database was restored, and the row with it. The other log may be the longer one already.
            self.standing.is_lost = True
            return 0.0
        if (self._follower.last_offset or 0) <= after:
            return _IDLE_S
        try:
            page = await self._follower.read(after, max(self.hook.batch, _PAGE_EVENTS))
        except StoreUnavailable:
            return _AWAY_S
        except OtherLog:  # the database was restored, and the row with it
            self.standing.is_lost = True
            return 0.0
        if page.upto == after:
            return _IDLE_S
        self._take(page)
        return 0.0

    def _take(self, page: Page) -> None:
        hook = self.hook
        self._page_upto = page.upto
        self._requests.extend(requests_of(hook.id, hook.batch, hook.types, hook.product_id, page.events))
        if not self._requests:
            self._move(page.upto)

    def _move(self, offset: int) -> None:
        self.standing.delivered = offset
        self._progress.note(self.standing)

    async def _send(self, request: Request) -> None:
        answer = await self._attempt(request)
        if answer is None:
            return
        match next_step(answer, self.standing.failures, datetime.now(UTC)):
            case Delivered():
                self._delivered(request, answer)
            case Pause(reason):
                self.standing.pause_reason = self.standing.pauses_with = reason
                self._log.warning("a webhook is paused", reason=reason)
                await self._failed(request, answer, None)
            case Again(after_s):
                await self._failed(request, answer, after_s)

    async def _attempt(self, request: Request) -> Answer | None:
        """Make one attempt. None: the lease ended before an answer came, so another relay may send it by now."""
        hook = self.hook
        if hook.destination is None or hook.problem is not None:
            return Answer(None, 0.0, error=hook.problem)
        headers = signed_headers(hook.keys, request.webhook_id, int(time.time()), request.body)
        try:
            async with asyncio.timeout(self._time_left_s()) as self._lease_timer:
                answer = await self._client.attempt(hook.destination, headers, request.body)
        except TimeoutError:
            self._log.warning("a request was broken off, because the lease of the webhook was not extended")
            return None
        finally:
            self._lease_timer = None
        metrics.WEBHOOKS.labels(_result(answer)).inc()
        metrics.WEBHOOK_SECONDS.observe(answer.took_s)
        return answer

    def _delivered(self, request: Request, answer: Answer) -> None:
        self._requests.popleft()
        standing, now = self.standing, time.monotonic()
        metrics.WEBHOOK_EVENTS.inc(request.events)
        if standing.failing_since is not None:
            self._log.info("a webhook works again", failures=standing.failures)
            standing.failing_since = standing.last_error = standing.retry_in_s = None
            standing.failures, self._success_told_at = 0, 0.0
        if now - self._success_told_at >= _TELL_SUCCESS_EVERY_S:
            self._success_told_at = now
            self._tell(request, answer)
        standing.has_delivered = True
        self._move(request.last_offset or 0 if self._requests else self._page_upto)

    async def _failed(self, request: Request, answer: Answer, retry_in_s: float | None) -> None:
        standing = self.standing
        if standing.failing_since is None:
            standing.failing_since = datetime.now(UTC)
        standing.failures += 1
        standing.last_error, standing.retry_in_s = answer.problem, retry_in_s
        self._retry_at = _in(retry_in_s)
        shown = self.hook.destination.shown if self.hook.destination else None
        wait_s = round(retry_in_s, 1) if retry_in_s is not None else None
        self._log.warning(
            "a webhook failed", to=shown, error=answer.problem, failures=standing.failures, retry_in_s=wait_s
        )
        self._tell(request, answer)
        self._progress.note(standing)
        await self._progress.flush()

    async def _test(self, wanted_at: datetime) -> float:
        """Send a test event, whatever state the hook is in. Its answer changes nothing, except that a hook that waits
        for its next attempt waits no longer if this one succeeded.
        """
        request = request_for_test(self.hook.id, self.hook.batch, wanted_at)
        answer = await self._attempt(request)
        if answer is None:
            return 0.0
        attempt = Attempt(self.hook.id, datetime.now(UTC), request, answer)
        self._log.info("sent a test event", result=attempt.answer.problem)
        try:
            await self._store.tell_test(attempt, wanted_at)
        except StoreUnavailable:
            return _AWAY_S
        self._tested_at = wanted_at
        if self.test_wanted_at == wanted_at:
            self.test_wanted_at = None
        if attempt.answer.is_delivered:
            self._retry_at = 0.0
        return 0.0

    def _tell(self, request: Request, answer: Answer) -> None:
        self._progress.note_attempt(Attempt(self.hook.id, datetime.now(UTC), request, answer))

    def _time_left_s(self) -> float:
        return self._held_until - MARGIN_S - time.monotonic()


def _in(seconds: float | None) -> float:
    return 0.0 if seconds is None else time.monotonic() + seconds


def _result(answer: Answer) -> str:
    """For the metric: a few values."""
    if answer.is_delivered:
        return "delivered"
    return "no_answer" if answer.status is None else f"{answer.status // 100}xx"
