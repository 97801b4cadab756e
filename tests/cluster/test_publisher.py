"""A publisher whose channel keeps refusing after the queue was without a leader."""

import pytest

from pipeline.broker.publisher import Outcome
from tests.cluster.nodes import Cluster, Node
from tests.support.brokers.publishers import QUEUE, publish, running_publisher
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]


async def stop_replica(cluster: Cluster, node: Node) -> None:
    await cluster.ask(node, f"ra:stop_server(quorum_queues, {{'%2F_{QUEUE}', node()}})")


async def start_replica(cluster: Cluster, node: Node) -> None:
    await cluster.ask(node, f"ra:restart_server(quorum_queues, {{'%2F_{QUEUE}', node()}})")


async def test_p8_a_channel_that_goes_on_refusing_when_the_queue_has_a_leader_again_is_replaced(
    cluster: Cluster,
) -> None:
    """RabbitMQ 3.10 only ever asks the node that led the queue when the channel was opened."""
    async with running_publisher(cluster.amqp_url) as publisher:
        assert await publish(publisher) is Outcome.CONFIRMED
    leader = await cluster.leader_of(QUEUE)
    one, other = (it for it in cluster.nodes if it is not leader)
    await stop_replica(cluster, one)
    await cluster.kill(leader)

    async with running_publisher(cluster.url(other)) as publisher:
        # RabbitMQ 4 asks all nodes, and gives no answer for longer than the publisher waits.
        assert await publish(publisher) in (Outcome.REFUSED, Outcome.UNKNOWN)
        await start_replica(cluster, one)

        async def is_confirmed() -> bool:
            return await publish(publisher) is Outcome.CONFIRMED

        await eventually(is_confirmed, 15, 0.25)
