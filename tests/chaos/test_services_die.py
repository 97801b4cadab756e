"""Services are killed at the worst moments; something starts them again, and that is all the help there is."""

import signal

import pytest

from tests.chaos.account.signs import Counts, Logged, Restarts
from tests.chaos.scene.scene import Scene
from tests.support.faults.faults import Proxy
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

# A point that is hit once may have been lucky.
_DEATHS = 3


@pytest.mark.deep
@pytest.mark.scenario("1", "ingest_api killed with confirms pending; every UNKNOWN retried with its key")
async def test_p5_what_was_in_flight_in_a_killed_api_is_one_order_each_after_a_retry(
    api_broker: Proxy, scene: Scene
) -> None:
    """P1, P5. The broker has the orders, their clients have heard nothing."""

    async def many_wait() -> bool:
        return await scene.metric("ingest_api", "headrace_orders_in_flight") > 100

    async with scene.under_load(keyed=1.0) as client:
        api_broker.hold()
        await eventually(many_wait)
        assert await scene.deployment.stop("ingest_api", signal.SIGKILL) == -signal.SIGKILL
        api_broker.release()
        scene.over()
        await scene.deployment.start("ingest_api")
        await scene.recovers()
    assert await client.retry_the_unknown() > 100
    row = await scene.check(
        # What a process dies of it cannot say itself. The broker can, and who starts it again.
        Logged("rabbitmq", "client unexpectedly closed TCP connection"),
        Restarts("ingest_api"),
        Counts("ingest_api", 'headrace_idempotent_requests_total{result="in_flight"}'),
    )
    assert row.unknown > 100
    assert row.ok + row.refused == row.offered


@pytest.mark.parametrize(
    ("moment", "failpoint"),
    [
        ("after its commit, before it forwards", "persist.after_commit_before_forward"),
        ("after it has forwarded, before its ack", "persist.after_forward_before_ack"),
    ],
    ids=["commit", "forward"],
)
@pytest.mark.scenario("2", "persist_worker killed {moment}")
async def test_p2_persist_worker_is_killed_with_its_batch_half_way(scene: Scene, moment: str, failpoint: str) -> None:
    """P1, P2."""
    async with scene.under_load():
        for _ in range(_DEATHS):
            await scene.dies_at("persist_worker", failpoint)
            await scene.recovers()
    forwarded_twice = [Counts("product_consumer", 'headrace_orders_duplicate_total{stage="stock"}')]
    await scene.check(
        Logged("persist_worker", "batch with repetitions"),
        Counts("persist_worker", 'headrace_redeliveries_total{queue="orders.accepted"}'),
        Counts("persist_worker", 'headrace_orders_duplicate_total{stage="persist"}'),
        *(forwarded_twice if failpoint == "persist.after_forward_before_ack" else []),
    )


@pytest.mark.deep
@pytest.mark.scenario("3", "persist_worker killed in the middle of a COPY")
async def test_p1_persist_worker_is_killed_in_the_middle_of_a_copy(scene: Scene) -> None:
    """P1, P2: half of a batch is no batch."""
    async with scene.under_load():
        for _ in range(_DEATHS):
            await scene.dies_at("persist_worker", "persist.mid_copy")
            await scene.recovers()
    await scene.check(
        Logged("persist_worker", "batch with redeliveries"),
        Counts("persist_worker", 'headrace_redeliveries_total{queue="orders.accepted"}'),
    )


@pytest.mark.deep
@pytest.mark.parametrize(
    ("moment", "failpoint"),
    [
        ("after its commit, before it busts", "stock.after_commit_before_bust"),
        ("after it has busted, before its ack", "stock.after_bust_before_ack"),
    ],
    ids=["commit", "bust"],
)
@pytest.mark.scenario("4", "product_consumer killed {moment}")
async def test_p3_product_consumer_is_killed_with_its_batch_half_way(scene: Scene, moment: str, failpoint: str) -> None:
    """P2, P3, P7: stock is moved once, and whoever takes over busts what the dead one had not."""
    async with scene.under_load():
        for _ in range(_DEATHS):
            await scene.dies_at("product_consumer", failpoint)
            await scene.recovers()
    await scene.check(
        Logged("product_consumer", "batch with repetitions"),
        Counts("product_consumer", 'headrace_redeliveries_total{queue="orders.created"}'),
        Counts("product_consumer", 'headrace_orders_duplicate_total{stage="stock"}'),
    )
