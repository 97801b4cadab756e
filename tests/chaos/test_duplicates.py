"""Everything comes again: from clients, from the broker, and from whoever replays dead letters."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from pipeline.contract import topology
from tests.chaos.account import server_state
from tests.chaos.account.signs import Counts, Logged
from tests.chaos.scene.attempts import Attempt, Verdict, WantedOrder
from tests.chaos.scene.dead_letters import remove_cause, replay_twice, unwanted, unwanted_orders, waiting
from tests.chaos.scene.scene import Scene
from tests.support.brokers.broker import plain_channel
from tests.support.time.conditions import eventually

__all__ = ["unwanted"]
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_AT_ONCE = 50
# Fewer than a worker prefetches.
_IN_HAND = 100
_REDELIVERIES = 'headrace_redeliveries_total{queue="orders.accepted"}'


@pytest.mark.scenario("14", "one key 50 times at once; all messages again, twice; dead letters replayed twice")
async def test_p2_whatever_comes_again_is_one_order(unwanted: None, scene: Scene) -> None:
    """P2, P5: one row, one verdict, one movement of stock."""
    scene.within_s = 60  # all of it twice more has to be worked off besides
    async with scene.under_load(keyed=1.0) as client:
        async with all_messages(scene) as messages:
            await send_at_once(scene)
            await eventually(lambda: has_waiting(scene), 60)
        await remove_cause(scene)
        await replay_twice(scene)
        await eventually(lambda: unwanted_orders(scene), 30)
        accepted = [it for it in messages if it.routing_key == topology.ORDER_ACCEPTED]
        await redeliver_what_is_in_hand(scene, list(islice(cycle(accepted), _IN_HAND)))
        for _ in range(2):
            await publish_again(scene, messages)
        scene.over()
        await scene.recovers()
    await client.retry_the_unknown()
    row = await scene.check(
        Logged("persist_worker", "batch with repetitions"),
        Counts("persist_worker", 'headrace_orders_duplicate_total{stage="persist"}'),
        Counts("product_consumer", 'headrace_orders_duplicate_total{stage="stock"}'),
        Counts("persist_worker", _REDELIVERIES),
    )
    assert row.ok + row.refused == row.offered


async def send_at_once(scene: Scene) -> None:
    """One key, from 50 clients that know nothing of each other. At least one of them is told the order's id."""
    for product_id in scene.products[:3]:
        wanted = WantedOrder(product_id, 7, str(uuid.UUID(int=scene.rng.getrandbits(128), version=4)))
        attempts = [scene.client.send(wanted) for _ in range(_AT_ONCE)]
        await eventually(partial(all_are_answered, attempts), 20)
        assert any(it.verdict is Verdict.OK for it in attempts)


def all_are_answered(attempts: list[Attempt]) -> bool:
    return all(it.ended_s is not None for it in attempts)


async def redeliver_what_is_in_hand(scene: Scene, messages: list[AbstractIncomingMessage]) -> None:
    """A worker was given all that there is, new orders and old ones, and dies with it: the next one is given every
    message again.
    """
    assert len(messages) == _IN_HAND
    frozen = scene.deployment.services["persist_worker"].process
    frozen.send_signal(signal.SIGSTOP)
    await scene.goes_on(0.2)
    scene.client.rests = True
    await scene.client.answered()
    await publish_again(scene, messages)
    await eventually(lambda: is_with_workers(scene), 20)
    assert await scene.deployment.stop("persist_worker", signal.SIGKILL) == -signal.SIGKILL
    await scene.deployment.start("persist_worker")
    await eventually(lambda: have_come_again(scene, len(messages)), 30)
    scene.client.rests = False


async def is_with_workers(scene: Scene) -> bool:
    """Whether none is left in the queue: nobody takes any, so what was there has been delivered, unacknowledged."""
    ready, _ = (await server_state.queues(scene.amqp_url))[topology.ORDERS_ACCEPTED_QUEUE]
    return ready == 0


async def have_come_again(scene: Scene, count: int) -> bool:
    return await scene.metric("persist_worker", _REDELIVERIES) >= count


@asynccontextmanager
async def all_messages(scene: Scene) -> AsyncIterator[list[AbstractIncomingMessage]]:
    """Every message of both queues that is published while the block runs. Complete when it has ended."""
    messages: list[AbstractIncomingMessage] = []

    async def collect(message: AbstractIncomingMessage) -> None:
        messages.append(message)

    async with plain_channel(scene.amqp_url) as channel:
        tap = await channel.declare_queue(exclusive=True)
        await tap.bind(topology.ORDERS_EXCHANGE, "order.*")
        await tap.consume(collect, no_ack=True)
        yield messages
        # One channel, so all that was delivered before is here when this is answered.
        await tap.unbind(topology.ORDERS_EXCHANGE, "order.*")
    assert messages


async def publish_again(scene: Scene, messages: list[AbstractIncomingMessage]) -> None:
    async with plain_channel(scene.amqp_url) as channel:
        exchange = await channel.get_exchange(topology.ORDERS_EXCHANGE)
        again = [(aio_pika.Message(it.body, headers=it.headers), it.routing_key or "") for it in messages]
        await asyncio.gather(*(exchange.publish(message, key) for message, key in again))


async def has_waiting(scene: Scene) -> bool:
    return await waiting(scene) > 0
