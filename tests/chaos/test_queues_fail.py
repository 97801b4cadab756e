"""What the broker was told to have is gone, or has no room."""

import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pamqp.commands import Basic

from pipeline.contract import topology
from tests.chaos.account.signs import Counts, Logged
from tests.chaos.scene.scene import BreakableScene
from tests.support.brokers.broker import Management, plain_channel
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.scenes.ingest_faults import limit_queues, unlimit_queues
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

ACCEPTED, CREATED = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE
KEYS = {ACCEPTED: topology.ORDER_ACCEPTED, CREATED: topology.ORDER_CREATED}
CONSUMERS = {ACCEPTED: "persist_worker", CREATED: "product_consumer"}
PUBLISHERS = {ACCEPTED: ("ingest_api", "broker"), CREATED: ("persist_worker", "publisher")}


@pytest.mark.deep
@pytest.mark.scenario("12", "the vhost deleted, and made again after 10 s")
async def test_p12_a_deleted_vhost_is_used_again_without_help(scene: BreakableScene) -> None:
    """Deleted while its queues are empty. Until it is back clients hear 503, and from then on all is declared again."""
    async with scene.under_load():
        async with Management(scene.servers.urls.rabbitmq_api, scene.amqp_url) as management:
            async with scene.nobody_orders():
                await management.delete_vhost()
            await scene.goes_on(10)
            await management.make_vhost()
        scene.over()
        await scene.recovers()
    await scene.check(
        *(Logged(name, "broker connection lost") for name in ("ingest_api", "persist_worker", "product_consumer")),
        Counts("persist_worker", 'headrace_broker_connection_losses_total{connection="consumer"}'),
    )


@pytest.mark.deep
@pytest.mark.parametrize("queue", [ACCEPTED, CREATED])
@pytest.mark.scenario("12", "{queue} deleted")
async def test_p1_a_deleted_queue_is_there_again_without_help(scene: BreakableScene, queue: str) -> None:
    """Deleted while it is empty: what somebody throws away with it, nobody can bring back."""
    consumer = CONSUMERS[queue]
    async with scene.under_load():
        async with scene.nobody_orders(), Management(scene.servers.urls.rabbitmq_api, scene.amqp_url) as management:
            await management.delete_queue(queue)
        scene.over()
        await scene.recovers()
    await scene.check(
        # The client's words: ours are of what met it first, which may have been the question how many are ready.
        Logged(consumer, "cancelled by the broker"),
        Counts(consumer, 'headrace_broker_connection_losses_total{connection="consumer"}'),
    )


@pytest.mark.deep
@pytest.mark.parametrize("queue", [ACCEPTED, CREATED])
@pytest.mark.scenario("12", "binding of {queue} removed")
async def test_p1_a_removed_binding_is_there_again_without_help(scene: BreakableScene, queue: str) -> None:
    """P1: what no queue takes is not accepted, and not let go of; and whoever meets it declares all again."""
    publisher, part = PUBLISHERS[queue]
    async with scene.under_load():
        async with plain_channel(scene.amqp_url) as channel:
            await (await channel.get_queue(queue)).unbind(topology.ORDERS_EXCHANGE, KEYS[queue])
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged(publisher, "a message was refused for want of a queue"),
        Counts(publisher, f'headrace_broker_redeclarations_total{{connection="{part}"}}'),
    )


@pytest.mark.deep
@pytest.mark.scenario("12", "consumer of orders.accepted cancelled by the broker")
async def test_p4_a_cancelled_consumer_consumes_again_without_help(worker_broker: Proxy, scene: BreakableScene) -> None:
    async with scene.under_load():
        worker_broker.say(Basic.Cancel("persist_worker-1", nowait=True), channel=1)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("persist_worker", "the broker cancelled the consumer"),
        Counts("persist_worker", 'headrace_broker_connection_losses_total{connection="consumer"}'),
    )


@pytest_asyncio.fixture(loop_scope="session")
async def worker_broker(
    environment: dict[str, str], own_environment: dict[str, dict[str, str]]
) -> AsyncIterator[Proxy]:
    """What persist_worker reaches the broker through. A test names it before `scene`."""
    async with proxy_to(environment["AMQP_URL"]) as proxy:
        own_environment.setdefault("persist_worker", {})["AMQP_URL"] = proxy.url(environment["AMQP_URL"])
        yield proxy


@pytest.mark.deep
@pytest.mark.scenario("13", "orders.accepted full for 10 s")
async def test_p8_a_full_queue_refuses_orders_and_loses_none(scene: BreakableScene) -> None:
    """P8: 503 at once. P1: nothing that was accepted makes room for what comes later."""
    async with scene.under_load():
        scene.deployment.services["persist_worker"].process.send_signal(signal.SIGSTOP)
        await limit_queues(scene.servers.urls, scene.amqp_url, 50)
        refused = 'headrace_orders_refused_total{reason="overloaded"}'
        await eventually(lambda: scene.metric("ingest_api", refused), 20)
        await scene.goes_on(10)
        scene.deployment.services["persist_worker"].process.send_signal(signal.SIGCONT)
        await unlimit_queues(scene.servers.urls, scene.amqp_url)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("ingest_api", "the broker refuses messages: a queue is full"), Counts("ingest_api", refused)
    )


@pytest.mark.deep
@pytest.mark.scenario("13", "orders.created full for 10 s")
async def test_p1_a_full_queue_between_the_workers_holds_what_is_stored(scene: BreakableScene) -> None:
    """P1, P4: what is stored and cannot be forwarded is held, and forwarded when there is room. Intake goes on."""
    async with scene.under_load():
        scene.deployment.services["product_consumer"].process.send_signal(signal.SIGSTOP)
        await limit_queues(scene.servers.urls, scene.amqp_url, 5, CREATED)
        retries = 'headrace_batch_retries_total{queue="orders.accepted",reason="refused"}'
        await eventually(lambda: scene.metric("persist_worker", retries), 20)
        await scene.goes_on(10)
        scene.deployment.services["product_consumer"].process.send_signal(signal.SIGCONT)
        await unlimit_queues(scene.servers.urls, scene.amqp_url, CREATED)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("persist_worker", "the broker refuses messages: a queue is full"),
        Logged("persist_worker", "order.created not confirmed"),
        Counts("persist_worker", retries),
    )
