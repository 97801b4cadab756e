"""All hooks of this process: which it holds, and a task for each.

Once a second, and at once when somebody has changed a hook, it looks at all of them, and takes those that nobody holds.
It extends its leases every 3 s; they end after 10 s. So hooks of a relay that died go on within 11 s in another one,
and those of one that stops within a second.
"""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from functools import partial

import structlog

from database.connection import Connection
from database.faults import Fault, describe, fault_of
from database.log_follower import LogFollower
from database.sessions import StoreUnavailable, count_fault, listening
from event_relay.delivery import WebhookClient
from event_relay.hook_progress import HookProgress
from event_relay.hook_sender import HookSender
from event_relay.hook_store import HookRow, HookStore
from event_relay.leases import EXTEND_EVERY_S, LEASE_S
from pipeline.contract import hooks as contract
from pipeline.process import lifecycle, metrics
from pipeline.process.backoff import backoff_s
from pipeline.process.coroutines import set_within
from pipeline.process.health import Health

log = structlog.get_logger()

HOOKS = "hooks"
"""The part of health that is up while the tables of hooks can be read and written."""

_LOOK_EVERY_S = 1.0
_FORGET_SECRETS_EVERY_S = 60.0
# Between two looks, however many hooks are changed.
_MIN_INTERVAL_S = 0.05
_STATES = ("active", "failing", "paused")


class Hooks:
    """Never raises for faults of PostgreSQL or of receivers."""

    def __init__(
        self,
        database_url: str,
        health: Health,
        store: HookStore,
        follower: LogFollower,
        client: WebhookClient,
        *,
        timeout_s: float,
    ) -> None:
        self._url, self._health, self._store = database_url, health, store
        self._follower, self._client, self._timeout_s = follower, client, timeout_s
        self._progress = HookProgress(store)
        self._senders: dict[str, HookSender] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._extend_at = self._held_until = self._forget_secrets_at = 0.0
        self._counted: set[str] = set()
        self._is_stopping = False
        self._bug: BaseException | None = None
        self._awake = asyncio.Event()

    async def run(self) -> None:
        """Hold hooks and send to them, until cancelled."""
        async with lifecycle.background(self._progress.run(), self._wake_senders()):
            await self._look_for_ever()

    async def stop(self, grace_s: float) -> None:
        """Let requests in hand finish for `grace_s`, write down how far all hooks are, and leave them to others.

        A request that has no answer by then is sent again by whoever holds the hook next.
        """
        self._is_stopping = True
        for sender in self._senders.values():
            sender.stop()
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        await lifecycle.end(tasks)
        if await self._progress.flush():
            with suppress(StoreUnavailable):
                await self._store.release_all()

    async def _look_for_ever(self) -> None:
        failed = 0
        while True:
            try:
                async with listening(
                    self._url,
                    "event_relay hooks",
                    contract.CHANGED,
                    self._awake.set,
                    self._awake.set,
                    timeout_s=self._timeout_s,
                ) as connection:
                    while not connection.is_closed():
                        self._awake.clear()
                        await self._look(connection)
                        self._health.up(HOOKS)
                        failed = 0
                        await self._rest()
                    raise ConnectionError("the connection was lost")
            except Exception as error:
                if error is self._bug or fault_of(error) is not Fault.PASSING:
                    raise
                count_fault(error)
                self._health.down(HOOKS, f"PostgreSQL: {describe(error)}")
                log.warning("not looking at hooks", error=describe(error))
            await asyncio.sleep(backoff_s(failed, last_s=_LOOK_EVERY_S))
            failed += 1

    async def _rest(self) -> None:
        await asyncio.sleep(_MIN_INTERVAL_S)
        await set_within(_LOOK_EVERY_S - _MIN_INTERVAL_S, self._awake)
        if self._bug is not None:
            raise self._bug

    async def _wake_senders(self) -> None:
        """Tell all senders at once that the log goes on."""
        seen = 0
        while True:
            seen = await self._follower.wait_beyond(seen, 60.0)
            for sender in self._senders.values():
                sender.wake()

    async def _look(self, connection: Connection) -> None:
        """Begin and end senders as the rows say."""
        async with self._progress.writing:  # so that a row's cursor is the one that was last written, or is changed
            if self._is_stopping:
                return
            rows = await self._rows(connection)
            if await self._take(connection, rows):
                rows = await self._rows(connection)
            for hook_id in list(self._senders):
                self._compare(hook_id, rows.get(hook_id))
            self._begin(rows)
        self._count(rows)
        if time.monotonic() >= self._forget_secrets_at:
            self._forget_secrets_at = time.monotonic() + _FORGET_SECRETS_EVERY_S
            await self._store.forget_secrets(connection)

    async def _rows(self, connection: Connection) -> dict[str, HookRow]:
        return {row.hook.id: row for row in await self._store.read(connection)}

    async def _take(self, connection: Connection, rows: dict[str, HookRow]) -> bool:
        """Take hooks that nobody holds, and extend the leases if it is time. Returns whether any may be new."""
        mine = {it.hook.id for it in rows.values() if it.is_due and it.holder == self._store.holder}
        new = {it.hook.id for it in rows.values() if it.is_due and it.is_free} | (mine - self._senders.keys())
        if not new and (not mine or time.monotonic() < self._extend_at):
            return False
        began = time.monotonic()  # before PostgreSQL's clock begins the lease
        held = await self._store.take(connection, new | mine)
        self._extend_at, self._held_until = began + EXTEND_EVERY_S, began + LEASE_S
        for hook_id in held & self._senders.keys():
            self._senders[hook_id].extend(self._held_until)
        return bool(new)

    def _compare(self, hook_id: str, row: HookRow | None) -> None:
        """End a sender whose hook is gone, somebody else's, paused, or replayed; tell others what is new."""
        sender = self._senders[hook_id]
        if row is None or row.holder != self._store.holder:
            # Without the answer to the request in hand: another relay may send it by now.
            sender.standing.is_lost = True
            self._tasks[hook_id].cancel()
            return
        is_noted = self._progress.is_noted(hook_id)
        if row.standing.delivered != sender.standing.saved:
            sender.standing.is_lost = True
        sender.see(row, is_newer=not is_noted)
        if not row.is_due:
            sender.stop()

    def _begin(self, rows: dict[str, HookRow]) -> None:
        if self._is_stopping:  # since this look began: `stop` knows nothing of a sender that begins now
            return
        for hook_id, row in rows.items():
            is_mine = row.holder == self._store.holder and not row.is_free
            if not is_mine or not row.is_due or hook_id in self._senders:
                continue
            if self._progress.is_noted(hook_id):
                # By a sender that has ended. The row's cursor is older, so the next one would send events again.
                self._awake.set()
                continue
            sender = HookSender(row, self._follower, self._client, self._store, self._progress, self._held_until)
            task = asyncio.create_task(sender.run(), name=f"hook {hook_id}")
            self._senders[hook_id], self._tasks[hook_id] = sender, task
            task.add_done_callback(partial(self._ended, hook_id))

    def _ended(self, hook_id: str, task: asyncio.Task[None]) -> None:
        del self._senders[hook_id], self._tasks[hook_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug = error
        self._awake.set()

    def _count(self, rows: dict[str, HookRow]) -> None:
        states = Counter(row.state for row in rows.values())
        for state in _STATES:
            metrics.HOOKS.labels(state).set(states[state])
        end = self._follower.last_offset
        for hook_id, row in rows.items():
            sender = self._senders.get(hook_id)
            delivered = sender.standing.delivered if sender else row.standing.delivered
            if end is not None:
                metrics.HOOK_LAG.labels(hook_id).set(max(0, end - delivered))
        for hook_id in self._counted - rows.keys():
            with suppress(KeyError):
                metrics.HOOK_LAG.remove(hook_id)
        self._counted = set(rows)
