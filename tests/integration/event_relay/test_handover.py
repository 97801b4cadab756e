"""P9, P11: when one sender of a hook ends and the next begins in the same relay, nothing is sent twice or undone.

Hooks run in the test's process, so that the test says when what they have noted is written down.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import pytest

from database.connection import Connection
from database.log_follower import LogFollower
from database.sessions import StoreUnavailable, make_pool
from event_relay import hook_progress
from event_relay import hooks as hooks_module
from event_relay.delivery import webhook_client
from event_relay.hook_store import HookRow, HookStore, Standing
from event_relay.hooks import HOOKS, Hooks
from pipeline.process.health import Health
from tests.support.brokers.broker import running_task
from tests.support.data.metrics import sample
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.events.receiver import OK, Received, Receiver, answer, saying
from tests.support.services.relay import add_hook, change_hook, decide, hook_row
from tests.support.time.conditions import eventually

A = new_product_id()
TIMEOUT_S = 5.0
ACTIVE, PAUSED = (sample("headrace_hooks", state=it) for it in ("active", "paused"))


class Store(HookStore):
    """The real one, but a test may hold it up, and lose the answer to what it has saved."""

    has_taken = has_read = False
    takes: asyncio.Event
    """While it is not set, `take` does not return."""
    reads: asyncio.Event
    """While it is not set, `read` does not return what it has read."""
    answers = True
    """Whether `save` answers. Otherwise PostgreSQL commits the first one, and is away for those that follow."""
    commits_lost = 0

    async def take(self, connection: Connection, hook_ids: Collection[str]) -> set[str]:
        held = await super().take(connection, hook_ids)
        self.has_taken = True
        await self.takes.wait()
        return held

    async def read(self, connection: Connection) -> list[HookRow]:
        rows = await super().read(connection)
        self.has_read = not self.reads.is_set()
        await self.reads.wait()
        return rows

    async def save(self, standings: Sequence[Standing]) -> set[str]:
        if self.answers:
            return await super().save(standings)
        if not self.commits_lost:
            await super().save(standings)
        self.commits_lost += 1
        raise StoreUnavailable("the answer was lost")


@dataclass
class Relay:
    hooks: Hooks
    store: Store

    def is_sending(self) -> bool:
        return bool(self.hooks._senders)

    async def write(self) -> None:
        """Write down what is noted."""
        assert await self.hooks._progress.flush()


@dataclass
class Slow:
    """Behaves as a receiver that answers once it may."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    may: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: Received, writer: asyncio.StreamWriter) -> bool:
        self.asked.set()
        await self.may.wait()
        writer.write(OK)
        return True


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    async with running_hooks(database_url) as it:
        yield it


@asynccontextmanager
async def running_hooks(database_url: str) -> AsyncIterator[Relay]:
    health = Health("test", "events", HOOKS)
    async with (
        make_pool(database_url, "test", 3, TIMEOUT_S) as pool,
        webhook_client(allow_private=True) as client,
    ):
        follower = LogFollower(database_url, health, "events", pool=pool, timeout_s=TIMEOUT_S, min_interval_s=0.01)
        store = Store(str(uuid4()), pool, TIMEOUT_S, allow_private=True)
        store.takes, store.reads = asyncio.Event(), asyncio.Event()
        store.takes.set()
        store.reads.set()
        hooks = Hooks(database_url, health, store, follower, client, timeout_s=TIMEOUT_S)
        async with running_task(follower.run(), hooks.run()):
            await eventually(lambda: health.is_up("events") and health.is_up(HOOKS))
            yield Relay(hooks, store)
            await hooks.stop(TIMEOUT_S)


@pytest.fixture
def writes_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first delivery, which is written at once."""
    monkeypatch.setattr(hook_progress, "_EVERY_S", 3600.0)


async def is_at(connection: Connection, hook_id: str, offset: int) -> bool:
    return bool((await hook_row(connection, hook_id))["delivered"] == offset)


async def first_delivered(connection: Connection, receiver: Receiver) -> str:
    """A hook of which one event is delivered, and that written down."""
    hook_id = await add_hook(connection, receiver.url)
    await decide(connection, order(A))
    await eventually(lambda: is_at(connection, hook_id, 1))
    return hook_id


async def pause(connection: Connection, hook_id: str) -> None:
    """As an operator does. The relay has seen it."""
    await change_hook(connection, hook_id, "pause_reason = 'rest'")
    await eventually(lambda: PAUSED() == 1)


async def resume(connection: Connection, hook_id: str) -> None:
    await change_hook(connection, hook_id, "pause_reason = NULL, retry_at = NULL")
    await eventually(lambda: ACTIVE() == 1)


async def goes_on(connection: Connection, receiver: Receiver, count: int) -> None:
    """The hook gets one more event, and has had each of `count` once."""
    await decide(connection, order(A))
    await eventually(lambda: len(receiver.requests) >= count)
    assert [it["cursor"] for it in receiver.events] == list(dict.fromkeys(it["cursor"] for it in receiver.events))
    assert len(receiver.requests) == count


# ── stopping


async def test_p9_a_stop_during_a_look_begins_no_sender(
    connection: Connection, receiver: Receiver, relay: Relay
) -> None:
    """It would send after the hook was left to another relay."""
    relay.store.takes.clear()
    hook_id = await add_hook(connection, receiver.url)
    await decide(connection, order(A))
    await eventually(lambda: relay.store.has_taken)
    stopping = asyncio.create_task(relay.hooks.stop(TIMEOUT_S))
    await asyncio.sleep(0)
    relay.store.takes.set()
    await stopping
    assert not relay.is_sending()
    assert (await hook_row(connection, hook_id))["holder"] is None
    assert receiver.requests == []


# ── what the next sender begins with


@pytest.mark.usefixtures("writes_only_when_told")
async def test_the_next_sender_begins_once_it_is_written_how_far_the_one_before_came(
    connection: Connection, receiver: Receiver, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay does not wait for its next look of the second: here there is none."""
    monkeypatch.setattr(hooks_module, "_LOOK_EVERY_S", 3600.0)
    hook_id = await first_delivered(connection, receiver)
    await decide(connection, order(A))
    await eventually(lambda: len(receiver.requests) == 2)
    await pause(connection, hook_id)
    await eventually(lambda: not relay.is_sending())
    await resume(connection, hook_id)
    assert await is_at(connection, hook_id, 1)
    assert not relay.is_sending()
    await relay.write()
    await eventually(relay.is_sending)
    await goes_on(connection, receiver, 3)


async def test_a_request_under_way_while_its_hook_is_paused_and_resumed_is_sent_once(
    connection: Connection, receiver: Receiver, relay: Relay
) -> None:
    receiver.behave = slow = Slow()
    hook_id = await add_hook(connection, receiver.url)
    await decide(connection, order(A))
    await slow.asked.wait()
    await pause(connection, hook_id)
    await resume(connection, hook_id)
    slow.may.set()
    await eventually(lambda: is_at(connection, hook_id, 1))
    await goes_on(connection, receiver, 2)


async def test_a_test_event_is_sent_once_although_a_look_began_before_its_result_was_written(
    connection: Connection, receiver: Receiver, relay: Relay
) -> None:
    """The look has read that a test is wanted, and tells the sender so after it has sent it."""
    receiver.behave = slow = Slow()
    hook_id = await add_hook(connection, receiver.url)
    await change_hook(connection, hook_id, "test_wanted_at = clock_timestamp()")
    await slow.asked.wait()
    relay.store.reads.clear()
    await eventually(lambda: relay.store.has_read)
    slow.may.set()
    await eventually(lambda: is_tested(connection, hook_id))
    relay.store.reads.set()
    await decide(connection, order(A))
    await eventually(lambda: is_at(connection, hook_id, 1))
    assert [it["type"] for it in receiver.events] == ["hook.test", "order.failed"]


async def is_tested(connection: Connection, hook_id: str) -> bool:
    return (await hook_row(connection, hook_id))["test_wanted_at"] is None


# ── a resume is not undone


@pytest.mark.usefixtures("writes_only_when_told")
async def test_a_resume_is_not_undone_by_what_was_noted_during_the_pause(
    connection: Connection, receiver: Receiver, relay: Relay
) -> None:
    hook_id = await first_delivered(connection, receiver)
    receiver.behave = slow = Slow()
    await decide(connection, order(A))
    await slow.asked.wait()
    await pause(connection, hook_id)
    slow.may.set()
    await eventually(lambda: not relay.is_sending())
    await resume(connection, hook_id)
    await relay.write()
    row = await hook_row(connection, hook_id)
    assert (row["delivered"], row["pause_reason"]) == (2, None)
    await goes_on(connection, receiver, 3)


async def test_a_resume_is_not_undone_by_writing_again_the_pause_of_a_410(
    connection: Connection, receiver: Receiver, relay: Relay
) -> None:
    """PostgreSQL has committed the pause, and its answer was lost. So the relay writes it again, after the resume."""
    receiver.behave = saying(answer(410))
    relay.store.answers = False
    hook_id = await add_hook(connection, receiver.url)
    await decide(connection, order(A))
    await eventually(lambda: relay.store.commits_lost)
    assert "410" in (await hook_row(connection, hook_id))["pause_reason"]
    receiver.behave = saying(OK)
    await resume(connection, hook_id)
    relay.store.answers = True
    await eventually(lambda: is_at(connection, hook_id, 1))
    row = await hook_row(connection, hook_id)
    assert (row["pause_reason"], row["retry_at"]) == (None, None)
    assert len(receiver.requests) == 2


async def test_a_resume_is_not_undone_by_writing_again_how_long_to_wait(
    connection: Connection, receiver: Receiver, relay: Relay
) -> None:
    receiver.behave = saying(answer(503, retry_after="3000"))
    relay.store.answers = False
    hook_id = await add_hook(connection, receiver.url)
    await decide(connection, order(A))
    await eventually(lambda: relay.store.commits_lost)
    receiver.behave = saying(OK)
    await change_hook(connection, hook_id, "pause_reason = NULL, retry_at = NULL")
    relay.store.answers = True
    await eventually(lambda: is_at(connection, hook_id, 1))


async def test_a_second_410_pauses_again_after_a_resume(
    connection: Connection, receiver: Receiver, relay: Relay
) -> None:
    receiver.behave = saying(answer(410))
    hook_id = await add_hook(connection, receiver.url)
    await decide(connection, order(A))
    for count in (1, 2):
        await eventually(lambda: PAUSED() == 1)
        assert (await hook_row(connection, hook_id))["failures"] == len(receiver.requests) == count
        await change_hook(connection, hook_id, "pause_reason = NULL, retry_at = NULL")
        await eventually(partial(receiver.has_more_requests, count))
