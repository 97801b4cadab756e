"""event_relay is killed, frozen, or without its servers. Readers of the event log get every event all the same."""

import signal

import pytest

from tests.chaos.account.signs import Counts, Logged, Restarts
from tests.chaos.scene.followed import RELAY, Followed
from tests.chaos.scene.scene import BreakableScene
from tests.support.services.processes import Service
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

# A relay that was killed holds its leases for 10 s, so its successor sends after 11 s at most.
_TAKEN_OVER_S = 15.0
_LEASE_S = 10
_DEATHS = 3
# What a process is killed by it cannot say itself. Its successor begins, and the one before has not said that it stops.
_KILLED = (Logged(RELAY, '"event":"starting"'), Restarts(RELAY))
# So that the receiver, which looks up each event, keeps up with two busy cores.
_BATCH = 20


@pytest.mark.parametrize(
    ("moment", "failpoint", "deaths"),
    [
        pytest.param("before it sends to a webhook", "relay.before_send", _DEATHS, marks=pytest.mark.deep),
        ("after a webhook was answered, before it is written down", "relay.sent_before_cursor", 1),
        pytest.param("before it publishes", "relay.before_publish", _DEATHS, marks=pytest.mark.deep),
        pytest.param(
            "after its confirm, before it is written down",
            "relay.published_before_cursor",
            _DEATHS,
            marks=pytest.mark.deep,
        ),
    ],
    ids=["before webhook", "after webhook", "before publish", "after publish"],
)
@pytest.mark.scenario("22", "event_relay killed {moment}, {deaths} ×")
async def test_p11_event_relay_is_killed_around_each_send(
    scene: BreakableScene, followed: Followed, moment: str, failpoint: str, deaths: int
) -> None:
    """P11: what was not answered is sent by the successor, and what was sent twice is the same event."""
    hook = await followed.add_hook(batch=_BATCH)
    async with followed.under_load():
        for _ in range(deaths):
            await scene.dies_at(RELAY, failpoint)
            await scene.recovers()
            await followed.catches_up(hook.reader, followed.queue, within_s=2 * _TAKEN_OVER_S)
    await scene.check(*_KILLED)


@pytest.mark.deep
@pytest.mark.scenario(
    "25", "two event_relays: the one that sends killed, the next one frozen past its lease, then thawed"
)
async def test_p11_two_event_relays_send_no_event_at_once(scene: BreakableScene, followed: Followed) -> None:
    """P11: the lease decides, also for a relay that wakes up and believes that it still holds it."""
    hook = await followed.add_hook(batch=100)  # it catches up with 25 s in which nobody sent
    hook.behaves(hook.taking(after_s=0.02))
    async with followed.under_load():
        await followed.catches_up(hook.reader)
        async with scene.more(event_relay=1) as (other,):
            await scene.kill(RELAY)
            first = scene.deployment.services[RELAY]
            sender = await _sender(first, other)
            sender.process.send_signal(signal.SIGSTOP)
            await _sender(other if sender is first else first)
            await scene.goes_on(_LEASE_S)
            sender.process.send_signal(signal.SIGCONT)
            scene.over()
            await scene.recovers()
            await followed.catches_up(hook.reader, followed.queue)
    await scene.check(*_KILLED)
    assert hook.most_at_once == 1


async def _sender(*relays: Service) -> Service:
    """Wait until one of these relays delivers to a webhook. Returns it."""
    before = [await it.metric("headrace_webhook_events_total") for it in relays]

    async def found() -> Service | None:
        for relay, count in zip(relays, before, strict=True):
            if await relay.metric("headrace_webhook_events_total") > count:
                return relay
        return None

    return await eventually(found, _TAKEN_OVER_S, 0.25)


@pytest.mark.deep
@pytest.mark.scenario("26", "PostgreSQL stopped at once, back after 10 s, while event_relay sends")
async def test_p11_event_relay_is_without_postgres(scene: BreakableScene, followed: Followed) -> None:
    """P11: the cursor is in PostgreSQL. What was sent before it was written down comes again."""
    hook = await followed.add_hook(batch=_BATCH)
    async with followed.under_load():
        await scene.servers.stop("postgres", signal.SIGQUIT)
        await scene.goes_on(10)
        await scene.servers.start("postgres")
        scene.over()
        await scene.recovers()
        await followed.catches_up(hook.reader, followed.queue)
    await scene.check(
        Logged(RELAY, "not following the event log"),
        Counts("persist_worker", "headrace_batch_retries_total"),
    )


@pytest.mark.deep
@pytest.mark.scenario("26", "broker killed and started again, while event_relay publishes")
async def test_p11_event_relay_is_without_the_broker(scene: BreakableScene, followed: Followed) -> None:
    """P11: the queue is durable, and so are messages. Webhooks do not wait for the broker."""
    hook = await followed.add_hook()
    async with followed.under_load():
        await scene.servers.kill("rabbitmq")
        scene.over()
        await scene.recovers()
        await followed.catches_up(hook.reader, followed.queue)
    await scene.check(
        Logged(RELAY, "broker connection lost"),
        Counts(RELAY, 'headrace_broker_connection_losses_total{connection="publisher"}'),
    )
