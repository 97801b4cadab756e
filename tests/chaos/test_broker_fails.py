"""RabbitMQ is killed, takes nothing, or is not heard of any more."""

import pytest

from tests.chaos.account.signs import Counts, Logged
from tests.chaos.scene.scene import BreakableScene
from tests.support.faults.faults import Proxy
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_ALARMS = {
    # A limit that is below what it needs, then that of stack.servers.rabbitmq.
    "memory": (("set_vm_memory_high_watermark", "0.00001"), ("set_vm_memory_high_watermark", "0.4")),
    "disk": (("set_disk_free_limit", "1000000000000000"), ("set_disk_free_limit", "50MB")),
}


@pytest.mark.scenario("5", "broker killed and started again")
async def test_p1_the_broker_is_killed_and_comes_back(scene: BreakableScene) -> None:
    """P1: what it has confirmed is on its disk. P8: meanwhile clients hear 503."""
    async with scene.under_load():
        await scene.servers.kill("rabbitmq")
        scene.over()
        await scene.recovers()
    await scene.check(
        *(Logged(name, "broker connection lost") for name in ("ingest_api", "persist_worker", "product_consumer")),
        Counts("ingest_api", 'headrace_broker_connection_losses_total{connection="broker"}'),
        Counts("persist_worker", 'headrace_broker_connection_losses_total{connection="consumer"}'),
        Counts("product_consumer", 'headrace_broker_connection_losses_total{connection="consumer"}'),
    )


@pytest.mark.deep
@pytest.mark.parametrize("kind", list(_ALARMS))
@pytest.mark.scenario("6", "{kind} alarm in the broker for 30 s")
async def test_p8_while_an_alarm_keeps_the_broker_from_taking_anything_clients_hear_503(
    scene: BreakableScene, kind: str
) -> None:
    """P8: clients hear 503 at once. P1: what was accepted before is delivered, and decided when the alarm is over."""
    alarm, all_is_well = _ALARMS[kind]
    async with scene.under_load():
        await scene.servers.rabbitmqctl(*alarm)
        try:
            await eventually(lambda: _is_unready(scene, "ingest_api"))
            await scene.goes_on(30)
        finally:
            scene.over()  # some time while that runs, which takes a second or two
            await scene.servers.rabbitmqctl(*all_is_well)
        await scene.recovers()
    await scene.check(
        Logged("ingest_api", "was blocked by"),
        Counts("ingest_api", 'headrace_orders_refused_total{reason="broker-unavailable"}'),
    )


@pytest.mark.deep
@pytest.mark.scenario("21", "quorum queues of the broker down although it answers, as after a full disk")
async def test_p12_a_broker_that_lives_on_without_its_queues_is_named_and_started_again(scene: BreakableScene) -> None:
    """P12: it refuses all, and says that its queues are empty. P8: clients hear that the broker is not available, and
    not that too much is waiting. P1: what it has confirmed is there when its supervisor has started it again.
    """
    async with scene.under_load():
        broker = scene.servers.process("rabbitmq")
        restarts = broker.restarts
        await scene.servers.rabbitmqctl("eval", "application:stop(ra).")
        faulty = 'headrace_broker_refuses_with_room{connection="broker"}'
        await eventually(lambda: scene.metric("ingest_api", faulty), 30)
        assert not await scene.deployment.is_ready("ingest_api")
        await eventually(lambda: broker.restarts > restarts, 60)
        await eventually(lambda: broker.state == "ready", 60)
        scene.over()
        await scene.recovers()
        assert await scene.metric("ingest_api", faulty) == 0
    await scene.check(
        Logged("ingest_api", "the broker refuses messages although the queue has room"),
        Counts("ingest_api", 'headrace_orders_refused_total{reason="broker-unavailable"}'),
    )


@pytest.mark.deep
@pytest.mark.scenario("9", "nothing gets through between ingest_api and the broker for 20 s; then a reset")
async def test_p8_the_broker_is_not_heard_of_any_more(api_broker: Proxy, scene: BreakableScene) -> None:
    """P8: nobody is told that the connection is gone, and no client waits past the deadline. P1, P4."""
    async with scene.under_load():
        api_broker.swallow()
        await scene.goes_on(20)
        assert await _is_unready(scene, "ingest_api")
        api_broker.come_back()
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("ingest_api", "publish without an answer"),
        Logged("ingest_api", "broker connection lost"),
        Counts("ingest_api", 'headrace_orders_refused_total{reason="outcome-unknown"}'),
        Counts("ingest_api", 'headrace_broker_connection_losses_total{connection="broker"}'),
    )


async def _is_unready(scene: BreakableScene, name: str) -> bool:
    return not await scene.deployment.is_ready(name)
