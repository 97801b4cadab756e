"""One of three brokers goes away, in each possible way, and no client notices for longer than 15 s."""

import pytest

from pipeline.contract import topology
from tests.chaos.account.signs import ANY, Counts, Logged
from tests.chaos.scene.scene import Scene
from tests.cluster.nodes import COUNT, Cluster
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

_ACCEPTED = topology.ORDERS_ACCEPTED_QUEUE
# Longer than the nodes take to notice a silent node, and than that node takes to pause.
_AWAY_S = 30
# Longer than clients take to notice a silent node, too (heartbeats, 33 s).
_CUT_OFF_S = 75
_TOLD = (
    Logged(ANY, "broker connection lost", or_words="publish without an answer"),
    Counts(ANY, "headrace_broker_connection_losses_total"),
)


async def has_all_replicas(cluster: Cluster) -> bool:
    return len(await cluster.members_of(_ACCEPTED)) == COUNT


@pytest.mark.scenario("C1", "the leader's node killed, and started again")
async def test_p1_the_leader_is_killed(scene: Scene, cluster: Cluster) -> None:
    async with scene.under_load():
        assert await has_all_replicas(cluster), "the queue is not on all nodes"
        leader = await cluster.leader_with_clients(_ACCEPTED)
        await cluster.kill(leader)
        scene.over()
        await scene.recovers()
        assert await cluster.leader_of(_ACCEPTED) is not leader
        await cluster.start(leader)
        await scene.goes_on(5)
    await scene.check(*_TOLD)


@pytest.mark.deep
@pytest.mark.scenario("C2", "the leader's node frozen for 30 s")
async def test_p1_a_node_is_frozen_and_thawed(scene: Scene, cluster: Cluster) -> None:
    async with scene.under_load():
        leader = await cluster.leader_with_clients(_ACCEPTED)
        cluster.pause(leader)
        scene.over()
        await scene.recovers()
        await scene.goes_on(_AWAY_S)
        cluster.resume(leader)
        await scene.goes_on(5)
        await cluster.bring_back(leader)
        await scene.goes_on(5)
    await scene.check(*_TOLD)


@pytest.mark.deep
@pytest.mark.scenario("C3", "the leader's node cut off from the others for 75 s, not from clients")
async def test_p1_a_node_is_cut_off_from_its_neighbours(scene: Scene, cluster: Cluster) -> None:
    async with scene.under_load():
        leader = await cluster.leader_with_clients(_ACCEPTED)
        await cluster.cut_off(leader)
        scene.over()
        await scene.recovers()
        await scene.goes_on(_CUT_OFF_S)
        await cluster.heal(leader)
        await cluster.bring_back(leader)
        await eventually(lambda: has_all_replicas(cluster), 60, 0.25)
        await scene.goes_on(5)
    await scene.check(*_TOLD)


@pytest.mark.deep
@pytest.mark.scenario("C4", "all three nodes restarted, one after the other")
async def test_p1_a_rolling_restart(scene: Scene, cluster: Cluster) -> None:
    async with scene.under_load():
        for node in cluster.nodes:
            await cluster.stop(node)
            scene.over()
            await scene.recovers()
            assert scene.pace.is_back, f"while {node.name} was away"
            await cluster.start(node)
            await cluster.until_whole()
            await eventually(lambda: has_all_replicas(cluster), 60, 0.25)
        await scene.goes_on(5)
    await scene.check(*_TOLD)
